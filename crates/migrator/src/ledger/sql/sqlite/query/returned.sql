UPDATE files SET state = :state, retired = NULL, run = :run, updated = :at
WHERE id = :id AND verified IS NOT NULL AND instr(:sources, '|' || state || '|') > 0
