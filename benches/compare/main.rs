//! The migrator beside its peers and the floor: what a copy costs in processor time, memory, requests and bytes read.
//!
//! `benches/compare/run` builds and runs everything; the subcommands are what it is made of.
#![expect(
    clippy::disallowed_methods,
    reason = "the bench writes and removes its own scratch data and its table of results"
)]

mod drive;
mod floor;
mod sets;
mod sink;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the migrator and its peers cost
#[derive(Debug, Parser)]
#[command(name = "compare", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 and keep nothing; prints its address, ends when standard input closes
    Sink(sink::Options),
    /// The floor of an unchanged run: walk and stat
    WalkStat {
        /// The directory
        directory: PathBuf,
    },
    /// The floor of a verified copy: walk, read, SHA-256
    #[command(name = "walk-read-sha256")]
    WalkRead {
        /// The directory
        directory: PathBuf,
        /// Hash everything twice, as a file in parts is: each part and the whole
        #[arg(long)]
        twice: bool,
    },
    /// The floor of an upload: the same requests by a bare HTTP client
    BarePut(floor::put::Options),
    /// Count the objects of a bucket
    Sums(floor::sums::Options),
    /// Run the comparison
    Run(drive::Options),
    /// Find how many requests at a time suit each program
    Tune(drive::Options),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Sink(options) => sink::run(options),
        Command::WalkStat { directory } => floor::walk::stat(&directory),
        Command::WalkRead { directory, twice } => floor::walk::read(&directory, twice),
        Command::BarePut(options) => floor::put::run(&options),
        Command::Sums(options) => floor::sums::run(&options),
        Command::Run(options) => drive::run(&options),
        Command::Tune(options) => drive::tune(&options),
    }
}

/// Writes a line to standard output. Nobody reading it is no error: the exit code tells how it went.
fn say(line: fmt::Arguments<'_>) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}
