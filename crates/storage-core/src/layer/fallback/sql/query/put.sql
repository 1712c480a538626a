INSERT OR REPLACE INTO entries (id, what, size, digest, content_type, file_name, created_secs, created_nanos, tags,
                                version, base, base_version, base_before, base_digest, deleted, ours, conflict, theirs, at)
VALUES (:id, :what, :size, :digest, :content_type, :file_name, :created_secs, :created_nanos, :tags,
        :version, :base, :base_version, :base_before, :base_digest, :deleted, :ours, :conflict, :theirs, :at)
