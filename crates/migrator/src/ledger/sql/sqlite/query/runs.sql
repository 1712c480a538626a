SELECT id, kind, started, finished, ended, tally, scanned_to, scan_complete, program
FROM runs
WHERE :before IS NULL OR started < :before
ORDER BY id DESC
LIMIT :limit
