SELECT id, kind, started, finished, ended, tally, scanned_to, scan_complete, program
FROM runs
WHERE id = coalesce(:run, (SELECT max(id) FROM runs))
