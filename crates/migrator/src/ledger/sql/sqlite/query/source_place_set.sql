UPDATE binding SET source_place = :place
