UPDATE runs SET tally = :tally, scanned_to = coalesce(:scanned_to, scanned_to)
WHERE id = :run AND finished IS NULL
