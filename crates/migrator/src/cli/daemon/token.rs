//! Where the daemon's token comes from.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::env::{Env, MIGRATOR_TOKEN, MIGRATOR_TOKEN_FILE};
use crate::failure::{Exit, Failure};
use crate::quantity::show_name;
use crate::web::gate::Token;

/// A token is a line; what is longer is another file.
const LONGEST: u64 = 4096;

/// Finds the token; nothing where none is set.
///
/// # Errors
/// A file is named and cannot be used, or the token is too short.
pub(super) fn find(env: &Env, configured: Option<&Path>) -> Result<Option<Token>, Failure> {
    if let Some(path) = env.token_file.as_deref().or(configured) {
        return read(path).map(Some);
    }
    match std::env::var(MIGRATOR_TOKEN) {
        Ok(text) if !text.is_empty() => parse(&text, MIGRATOR_TOKEN).map(Some),
        _ => Ok(None),
    }
}

fn read(path: &Path) -> Result<Token, Failure> {
    let shown = show_name(&path.to_string_lossy());
    let failed = |error: io::Error| {
        Failure::new(Exit::Config, format!("the token file {shown} cannot be read: {error}"))
            .with_hint(format!("check token_file, {MIGRATOR_TOKEN_FILE}, and the file's owner"))
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o007 != 0 {
        return Err(Failure::new(Exit::Config, format!("the token file {shown} can be read by everybody"))
            .with_hint(format!("chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    parse(text.lines().next().unwrap_or_default(), &shown)
}

fn parse(text: &str, place: &str) -> Result<Token, Failure> {
    Token::new(text).map_err(|wrong| {
        Failure::new(Exit::Config, format!("the token in {place} {wrong}"))
            .with_hint("make one with: head -c 32 /dev/urandom | base64")
    })
}
