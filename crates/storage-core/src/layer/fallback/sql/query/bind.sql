INSERT OR REPLACE INTO binding (one, primary_name, secondary, primary_can, secondary_can)
VALUES (1, :primary, :secondary, :primary_can, :secondary_can)
