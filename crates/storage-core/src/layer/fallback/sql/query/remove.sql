DELETE FROM entries WHERE id = :id
