SELECT id, upload, part_size, started FROM orphans ORDER BY id, upload
