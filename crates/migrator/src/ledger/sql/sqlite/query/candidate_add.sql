INSERT OR REPLACE INTO candidates (id, size, version, excluded) VALUES (:id, :size, :version, :excluded)
