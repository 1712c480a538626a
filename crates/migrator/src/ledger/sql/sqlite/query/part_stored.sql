INSERT INTO parts (id, number, size, digest, token)
SELECT id, :number, :size, :digest, :token
FROM files
WHERE id = :id AND upload IS NOT NULL AND instr(:sources, '|' || state || '|') > 0
ON CONFLICT (id, number) DO UPDATE SET size = excluded.size, digest = excluded.digest, token = excluded.token
