UPDATE binding SET target_capabilities = :capabilities
