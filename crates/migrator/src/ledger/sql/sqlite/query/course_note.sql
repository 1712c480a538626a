INSERT INTO courses (run, course)
SELECT id, :course FROM runs WHERE id = :run AND finished IS NULL
ON CONFLICT (run) DO UPDATE SET course = excluded.course
