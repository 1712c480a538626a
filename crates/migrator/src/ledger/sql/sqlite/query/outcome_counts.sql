SELECT outcome, count(*), coalesce(sum(size), 0) FROM outcomes WHERE run = :run GROUP BY outcome
