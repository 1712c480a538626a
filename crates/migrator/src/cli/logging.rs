//! Log lines, to standard error, around the bars.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::args::{Global, LogFormat};
use crate::cli::output::Output;
use crate::config::env::{Env, MIGRATOR_LOG};
use crate::failure::{Exit, Failure};

/// Installs the log. Warnings and errors by default, of a daemon what its runs do as well; the AWS SDK's own lines only when they are asked for.
///
/// # Errors
/// [`MIGRATOR_LOG`] cannot be understood.
pub(super) fn start(global: &Global, daemon: bool, env: &Env, output: &Output) -> Result<(), Failure> {
    let filter = match &env.log {
        Some(directives) => EnvFilter::try_new(directives).map_err(|error| {
            Failure::new(Exit::Config, format!("{MIGRATOR_LOG} cannot be understood: {error}"))
                .with_hint("write a level, or levels of modules: info, migrator=debug,storage_core=trace")
        })?,
        None => EnvFilter::new(default_directives(global, daemon)),
    };
    let writer = Writer(output.clone());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let ansi = output.is_terminal() && !env.no_color;
    let installed = match global.log_format {
        LogFormat::Text => builder.with_ansi(ansi).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| Failure::internal(format!("cannot start the log: {error}")))
}

/// What credentials cannot be had for, the error says in one line; the SDK says it in pages.
fn default_directives(global: &Global, daemon: bool) -> &'static str {
    match (global.quiet, global.verbose) {
        (true, _) => "error",
        // Nobody stands beside a daemon: its runs are told as they begin and end.
        (false, 0) if daemon => "warn,aws_config=error,migrator=info",
        (false, 0) => "warn,aws_config=error",
        (false, 1) => "warn,migrator=info,storage_core=info,s3_server=info",
        (false, _) => "warn,migrator=debug,storage_core=debug,s3_server=debug",
    }
}

#[derive(Clone, Debug)]
struct Writer(Output);

impl<'w> MakeWriter<'w> for Writer {
    type Writer = LineWriter;

    fn make_writer(&'w self) -> LineWriter {
        LineWriter(self.0.clone())
    }
}

/// Takes one event, which the formatter writes with one call.
#[derive(Debug)]
struct LineWriter(Output);

impl io::Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.err(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
