-- The open upload of a file becomes an orphan, unless it is :upload, or is of :size and :source_version.
INSERT INTO orphans (id, upload, part_size, started)
SELECT id, upload, upload_part_size, upload_started
FROM files
WHERE id = :id
  AND instr(:sources, '|' || state || '|') > 0
  AND upload IS NOT NULL
  AND (:upload IS NULL OR upload <> :upload)
  AND (:source_version IS NULL OR source_version <> :source_version OR size <> :size)
ON CONFLICT (id, upload) DO NOTHING
