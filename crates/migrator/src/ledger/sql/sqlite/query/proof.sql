SELECT run, previous, head, at FROM proofs WHERE run = coalesce(:run, (SELECT max(run) FROM proofs))
