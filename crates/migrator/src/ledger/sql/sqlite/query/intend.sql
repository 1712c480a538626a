-- An open upload is kept when it is of the same bytes. What was published before is history.
INSERT INTO files (id, state, size, source_version, attempts, run, updated)
VALUES (:id, :state, :size, :source_version, 1, :run, :at)
ON CONFLICT (id) DO UPDATE SET
    state               = excluded.state,
    size                = excluded.size,
    source_version      = excluded.source_version,
    digest              = NULL,
    composite           = NULL,
    composite_part_size = NULL,
    composite_parts     = NULL,
    target_version      = NULL,
    verified            = NULL,
    upload              = CASE WHEN size = excluded.size AND source_version = excluded.source_version
                               THEN upload END,
    upload_part_size    = CASE WHEN size = excluded.size AND source_version = excluded.source_version
                               THEN upload_part_size END,
    upload_started      = CASE WHEN size = excluded.size AND source_version = excluded.source_version
                               THEN upload_started END,
    attempts            = attempts + 1,
    error               = NULL,
    run                 = excluded.run,
    updated             = excluded.updated
WHERE instr(:sources, '|' || state || '|') > 0
