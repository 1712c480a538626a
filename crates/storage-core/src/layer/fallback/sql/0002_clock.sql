-- clock: the latest time, by the primary's own clock, at which it was seen to have stored something.
ALTER TABLE binding ADD COLUMN clock INTEGER;

-- By what a file shows that it was there before where its version had not been seen (base 'unknown'): not stored after
-- base_before, by the primary's own clock, or with this digest.
ALTER TABLE entries ADD COLUMN base_before INTEGER;
ALTER TABLE entries ADD COLUMN base_digest BLOB;
ALTER TABLE intents ADD COLUMN base_before INTEGER;
ALTER TABLE intents ADD COLUMN base_digest BLOB;
