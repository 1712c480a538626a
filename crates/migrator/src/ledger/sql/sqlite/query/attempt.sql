INSERT OR REPLACE INTO attempts (id, run, number, reason, detail, at)
VALUES (:id, :run, :number, :reason, :detail, :at)
