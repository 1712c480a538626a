//! Bad input: a message that names the thing, a hint, an exit code, and nothing half-written.
