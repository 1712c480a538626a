SELECT outcome, reason, count(*) AS number
FROM outcomes
WHERE run = :run
GROUP BY outcome, reason
ORDER BY number DESC, outcome, reason
