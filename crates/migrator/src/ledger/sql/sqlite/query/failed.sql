UPDATE files SET state = :state, error = :error, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
