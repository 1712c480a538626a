UPDATE files SET state = CASE state WHEN 'retired' THEN state ELSE :state END, verified = NULL, error = :error, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
