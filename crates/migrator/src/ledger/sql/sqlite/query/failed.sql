UPDATE files SET state = CASE state WHEN 'copied' THEN state ELSE :state END, error = :error, run = :run, updated = :at
WHERE id = :id AND instr(:sources, '|' || state || '|') > 0
RETURNING size, digest
