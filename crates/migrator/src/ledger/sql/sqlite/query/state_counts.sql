SELECT state, count(*), sum(size) FROM files GROUP BY state
