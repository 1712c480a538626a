//! The migrator: moves files between storages, verified, resumable, reported.

fn main() {}
