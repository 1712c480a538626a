INSERT INTO runs (kind, program, started, tally) VALUES (:kind, :program, :at, :tally) RETURNING id
