-- Where the source's file went when it was moved to quarantine; NULL: it never was, or a newer version was published since.
ALTER TABLE files ADD COLUMN retired TEXT;
