UPDATE files SET state = :state, verified = NULL, error = :error, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
