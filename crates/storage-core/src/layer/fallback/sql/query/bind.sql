INSERT INTO binding (one, primary_name, secondary, primary_can, secondary_can)
VALUES (1, :primary, :secondary, :primary_can, :secondary_can)
ON CONFLICT (one) DO UPDATE SET primary_name = :primary, secondary = :secondary,
                                primary_can = :primary_can, secondary_can = :secondary_can
