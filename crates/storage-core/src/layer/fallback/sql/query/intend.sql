INSERT OR REPLACE INTO intents (id, size, digest, base, base_version, ours, at)
VALUES (:id, :size, :digest, :base, :base_version, :ours, :at)
