SELECT id, kind, started, finished, ended, tally, scanned_to, scan_complete, program
FROM runs
ORDER BY id DESC
LIMIT :limit
