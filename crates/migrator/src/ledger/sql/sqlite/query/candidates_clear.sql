DELETE FROM candidates
