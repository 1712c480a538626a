SELECT outcome, count(*), coalesce(sum(size), 0)
FROM outcomes
WHERE run = :run AND outcome = 'failed' AND NOT EXISTS (SELECT 1 FROM files WHERE files.id = outcomes.subject)
GROUP BY outcome
