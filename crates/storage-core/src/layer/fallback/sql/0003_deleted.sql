-- deleted: our own deletion may have removed the base from the primary, so that its absence is no stranger's doing. Of
-- older rows it is not known: they are given the doubt.
ALTER TABLE entries ADD COLUMN deleted INTEGER NOT NULL DEFAULT 1 CHECK (deleted IN (0, 1));
ALTER TABLE intents ADD COLUMN deleted INTEGER NOT NULL DEFAULT 1 CHECK (deleted IN (0, 1));
