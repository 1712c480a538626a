//! `rig exec -- COMMAND...`: runs a command with the servers of the tests around it.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use test_rig::process::{self, DeathSignal};
use test_rig::scratch::Scratch;
use test_rig::{Garage, Moto, shared, skip, tools};

const USAGE: &str = "\
usage: rig exec -- COMMAND [ARGUMENT]...

Starts Garage and moto on free ports of 127.0.0.1, runs the command with their addresses in RIG_GARAGE_* and
RIG_MOTO_*, stops them, and ends with the command's exit code. In the command's environment RIG_REQUIRED=1 makes a
test that finds a program missing fail instead of being skipped.";

fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("rig: {error:#}"));
            ExitCode::from(125)
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<u8> {
    let command = match arguments.as_slice() {
        [exec, dashes, command @ ..] if exec == "exec" && dashes == "--" && !command.is_empty() => command,
        [help] if help == "--help" || help == "-h" => {
            say(USAGE);
            return Ok(0);
        }
        _ => bail!("what to do?\n{USAGE}"),
    };

    let scratch = Scratch::new("exec")?;
    let skips = scratch.join("skips");
    let garage = Garage::start()?;
    let moto = Moto::start()?;
    say(&format!("rig: garage at {}, moto at {}", garage.endpoint().endpoint, moto.endpoint().endpoint));

    let program = resolve(&command[0])?;
    let mut child = process::command(&program, DeathSignal::Term);
    child
        .args(&command[1..])
        .envs(garage.endpoint().to_env(shared::GARAGE))
        .envs(moto.endpoint().to_env(shared::MOTO))
        .env("RIG_BIN", env::join_paths(tools::pinned_dirs())?)
        .env(skip::REQUIRED, "1")
        .env(skip::SKIPS, &skips);
    let mut child =
        process::spawn(child).with_context(|| format!("cannot run {}", command[0].to_string_lossy()))?;
    let status = child.wait()?;

    if let Ok(lines) = std::fs::read_to_string(&skips) {
        say(&format!("rig: {} skipped\n{}", lines.lines().count(), lines.trim_end()));
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

fn resolve(program: &OsString) -> Result<std::path::PathBuf> {
    if Path::new(program).components().count() > 1 {
        return Ok(program.into());
    }
    let name = program.to_string_lossy();
    tools::find(&name).with_context(|| format!("{name} is not installed"))
}

#[expect(clippy::print_stderr, reason = "the command line's own output; stdout is the command's")]
fn say(line: &str) {
    eprintln!("{line}");
}
