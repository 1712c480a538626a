INSERT INTO proofs (run, previous, head, at) VALUES (:run, :previous, :head, :at) ON CONFLICT (run) DO NOTHING
