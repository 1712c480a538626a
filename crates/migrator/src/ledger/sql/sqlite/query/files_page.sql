SELECT id, state, size, source_version, digest, composite, composite_part_size, composite_parts, target_version,
       verified, upload, upload_part_size, upload_started, attempts, error, run, updated, retired
FROM files
WHERE id > :after AND (:states IS NULL OR instr(:states, '|' || state || '|') > 0)
ORDER BY id
LIMIT :limit
