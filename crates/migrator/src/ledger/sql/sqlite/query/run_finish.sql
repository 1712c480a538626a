UPDATE runs SET finished = :at, ended = :ended, tally = :tally, scan_complete = :scan_complete
WHERE id = :run AND finished IS NULL
