SELECT id, size, version, excluded FROM candidates WHERE id > :after ORDER BY id LIMIT :limit
