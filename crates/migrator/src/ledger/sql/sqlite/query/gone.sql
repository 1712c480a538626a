UPDATE files SET
    state            = CASE WHEN retired IS NULL THEN :state ELSE 'retired' END,
    upload           = NULL,
    upload_part_size = NULL,
    upload_started   = NULL,
    error            = NULL,
    run              = :run,
    updated          = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
