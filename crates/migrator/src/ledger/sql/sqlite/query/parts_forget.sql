DELETE FROM parts WHERE id = :id
