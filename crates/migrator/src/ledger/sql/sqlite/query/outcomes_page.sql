SELECT subject, outcome, reason, detail, size, digest, verified, attempts, at
FROM outcomes
WHERE run = :run AND subject >= :from
ORDER BY subject
LIMIT :limit
