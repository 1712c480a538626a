INSERT INTO binding (one, source, target, created) VALUES (1, :source, :target, :at)
