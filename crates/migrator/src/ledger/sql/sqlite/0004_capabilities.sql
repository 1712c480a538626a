-- What the target was found capable of when it was last asked, as JSON.
ALTER TABLE binding ADD COLUMN target_capabilities TEXT;
