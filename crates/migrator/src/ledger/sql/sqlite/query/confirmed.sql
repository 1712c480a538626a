UPDATE files SET state = CASE state WHEN 'retired' THEN state ELSE :state END, verified = :verified, attempts = 0, error = NULL, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
