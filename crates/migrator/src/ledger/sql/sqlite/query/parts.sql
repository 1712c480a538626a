SELECT number, size, digest, token FROM parts WHERE id = :id ORDER BY number
