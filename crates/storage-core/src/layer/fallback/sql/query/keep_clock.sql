UPDATE binding SET clock = :clock
