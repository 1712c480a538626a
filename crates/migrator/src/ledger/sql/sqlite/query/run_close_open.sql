UPDATE runs SET finished = :at, ended = :ended WHERE finished IS NULL
