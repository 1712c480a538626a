-- One look-up per run: an index by subject would hold every name of every run a second time.
SELECT subject, outcome, reason, detail, size, digest, verified, attempts, at, run
FROM runs CROSS JOIN outcomes ON outcomes.run = runs.id AND outcomes.subject = :subject
ORDER BY runs.id
