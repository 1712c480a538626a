INSERT OR REPLACE INTO intents (id, size, digest, base, base_version, base_before, base_digest, deleted, ours, at)
VALUES (:id, :size, :digest, :base, :base_version, :base_before, :base_digest, :deleted, :ours, :at)
