UPDATE files SET upload = NULL, upload_part_size = NULL, upload_started = NULL, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
