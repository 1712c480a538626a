//! The migrator: moves files between storages, verified, resumable, reported.

use std::process::ExitCode;

/// Small allocations of many threads: measured faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    migrator::cli::main()
}
