SELECT subject, outcome, reason, detail, size, digest, verified, attempts, at
FROM outcomes
WHERE run = :run AND subject >= :from AND outcome IN ('failed', 'not_deleted', 'unseen')
ORDER BY subject
LIMIT :limit
