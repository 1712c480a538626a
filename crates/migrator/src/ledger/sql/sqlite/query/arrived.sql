INSERT INTO files (id, state, size, source_version, digest, composite, composite_part_size, composite_parts,
                   target_version, verified, attempts, run, updated)
VALUES (:id, :state, :size, :source_version, :digest, :composite, :composite_part_size, :composite_parts,
        :target_version, :verified, :attempts, :run, :at)
ON CONFLICT (id) DO NOTHING
