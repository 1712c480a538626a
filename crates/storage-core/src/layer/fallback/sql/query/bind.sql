INSERT INTO binding (one, primary_name, secondary) VALUES (1, :primary, :secondary)
