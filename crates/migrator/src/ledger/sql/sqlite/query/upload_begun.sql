UPDATE files SET upload = :upload, upload_part_size = :part_size, upload_started = :started,
                 run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
