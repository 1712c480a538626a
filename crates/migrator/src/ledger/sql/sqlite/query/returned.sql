UPDATE files SET state = :state, retired = NULL, run = :run, updated = :at
WHERE id = :id AND digest IS NOT NULL AND verified IS NOT NULL AND instr(:sources, '|' || state || '|') > 0
