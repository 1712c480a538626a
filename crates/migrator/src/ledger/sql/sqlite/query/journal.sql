INSERT OR REPLACE INTO outcomes (run, subject, outcome, reason, detail, size, digest, verified, attempts, at)
VALUES (:run, :subject, :outcome, :reason, :detail, :size, :digest, :verified, :attempts, :at)
