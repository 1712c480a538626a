//! The migrator: moves files between storages, verified, resumable, reported.

use std::process::ExitCode;

/// Small allocations of many threads: measured faster than the system's. Without huge pages (feature `no_thp`):
/// with them, every page of every thread's size classes held 2 MiB, and peak memory was five times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    migrator::cli::main()
}
