SELECT run, number, reason, detail, at FROM attempts WHERE id = :id ORDER BY run, number
