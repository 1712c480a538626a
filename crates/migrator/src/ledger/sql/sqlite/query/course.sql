SELECT course FROM courses WHERE run = :run
