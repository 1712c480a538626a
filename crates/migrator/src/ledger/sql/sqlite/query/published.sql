UPDATE files SET
    state               = :state,
    digest              = :digest,
    composite           = :composite,
    composite_part_size = :composite_part_size,
    composite_parts     = :composite_parts,
    target_version      = :target_version,
    verified            = :verified,
    upload              = NULL,
    upload_part_size    = NULL,
    upload_started      = NULL,
    attempts            = CASE WHEN :verified IS NULL THEN attempts ELSE 0 END,
    error               = NULL,
    retired             = NULL,
    run                 = :run,
    updated             = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
