UPDATE files SET state = :state, retired = :place, error = NULL, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
