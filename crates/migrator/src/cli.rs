//! The command line: parses, composes, runs, tells. The only module that knows concrete storages and ledgers.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use tokio_util::sync::CancellationToken;

use crate::cli::args::{Args, Command};
use crate::cli::context::Context;
use crate::cli::output::Output;
use crate::cli::run::Drive;
use crate::config::Config;
use crate::config::env::Env;
use crate::failure::{Exit, Failure};

pub mod args;
mod cleanup;
mod context;
mod copy;
mod daemon;
pub mod endpoint;
mod explain;
mod logging;
mod output;
pub mod place;
mod plan;
mod proof;
mod rehearse;
mod report;
mod run;
mod shell;
mod signals;
mod status;
mod storing;
mod sync;
mod verify;
mod watch;

/// Runs the tool with the arguments of the process, and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect()).code())
}

/// Runs the tool.
pub fn run(arguments: Vec<OsString>) -> Exit {
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => return usage(&error, &arguments),
    };
    let output = Output::new(args.global.json, args.global.quiet);
    let ended = match &args.command {
        // For packages: they depend on no configuration.
        Command::Completions(args) => shell::completions(&output, args),
        Command::Man(args) => shell::man(args),
        _ => start(args, &output),
    };
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    }
}

fn start(args: Args, output: &Output) -> Result<Exit, Failure> {
    let env = Env::of_process();
    logging::start(&args.global, matches!(args.command, Command::Daemon(_)), &env, output)?;
    let config = Config::find(args.global.config.as_deref(), &env)?;
    let context = Context { output: output.clone(), global: args.global, env, config };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start threads: {error}")))?;
    let exit = runtime.block_on(dispatch(&context, args.command));
    // What still hangs in a system call must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    let stop = CancellationToken::new();
    // Commands that only look are ended by a signal as any program is.
    let acts = match &command {
        Command::Copy(args) => !args.copy.dry_run,
        Command::Sync(args) => !args.copy.dry_run,
        Command::Cleanup(args) => !args.dry_run,
        Command::Verify(_) => true,
        _ => false,
    };
    if acts {
        signals::listen(stop.clone(), context.output.clone())?;
    }
    match command {
        Command::Plan(args) => Box::pin(plan::run(context, &args)).await,
        Command::Copy(args) => Box::pin(copy::run(context, &args, Drive::by_hand(context, stop))).await,
        Command::Sync(args) => Box::pin(sync::run(context, &args, Drive::by_hand(context, stop))).await,
        Command::Verify(args) => Box::pin(verify::run(context, &args, Drive::by_hand(context, stop))).await,
        Command::Status(args) => Box::pin(status::run(context, &args)).await,
        Command::Report(args) => Box::pin(report::run(context, &args)).await,
        Command::Proof(args) => proof::run(context, &args),
        Command::Explain(args) => Box::pin(explain::run(context, &args)).await,
        Command::Completions(args) => shell::completions(&context.output, &args),
        Command::Man(args) => shell::man(&args),
        Command::Daemon(args) => Box::pin(daemon::run(context, &args)).await,
        Command::Cleanup(args) => Box::pin(cleanup::run(context, &args, stop)).await,
    }
}

/// Tells what is wrong with the command line, or shows the help that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone away has seen enough.
        drop(error.print());
        return Exit::Ok;
    }
    let secrets: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .filter(|text| has_credentials(text))
        .collect();
    if secrets.is_empty() {
        drop(error.print());
    } else {
        let shown = secrets.iter().fold(error.render().to_string(), |text, secret| {
            text.replace(secret, "(an address with credentials, not shown)")
        });
        Output::new(false, false).err(shown.as_bytes());
    }
    Exit::Usage
}

/// Tells whether a text looks like a URL with a user or password in it.
fn has_credentials(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|authority| authority.contains('@')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_password_is_recognised() {
        assert!(has_credentials("s3://key:secret@bucket/p"));
        assert!(has_credentials("--x=https://key@host"));
        assert!(!has_credentials("s3://bucket/a@b"));
        assert!(!has_credentials("me@host"));
    }
}
