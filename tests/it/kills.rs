//! Kills at every step, and what the next run makes of them.
