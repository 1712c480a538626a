//! Finds the programs that the rig starts.

use std::env;
use std::path::PathBuf;

use rustix::fs::{Access, access};

use crate::skip;

/// The Garage release that the tests were written against.
pub const GARAGE_VERSION: &str = "2.5.0";

/// Returns the directory where `tests/run` keeps what it installs: `$RIG_CACHE`, else
/// `${XDG_CACHE_HOME:-$HOME/.cache}/storage-rig`.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = non_empty("RIG_CACHE") {
        return dir;
    }
    non_empty("XDG_CACHE_HOME")
        .or_else(|| non_empty("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("storage-rig")
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns the directories of programs whose versions are pinned: those of `$RIG_BIN`, then those of the cache.
pub fn pinned_dirs() -> Vec<PathBuf> {
    let cache = cache_dir();
    let mut dirs = split("RIG_BIN");
    for dir in [format!("garage-{GARAGE_VERSION}/bin"), "venv/bin".to_owned(), "tools/bin".to_owned()] {
        let dir = cache.join(dir);
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

fn split(variable: &str) -> Vec<PathBuf> {
    env::var_os(variable).map(|value| env::split_paths(&value).collect()).unwrap_or_default()
}

/// Returns the program's path, or nothing where it is not installed. Pinned versions win over `$PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    pinned_dirs()
        .into_iter()
        .chain(split("PATH"))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

/// Returns the program's path for a test that cannot do without it; where it is missing, the test is reported
/// as skipped, or fails where all tests must run (see [`skip::missing`]).
pub fn require(program: &str) -> Option<PathBuf> {
    let path = find(program);
    if path.is_none() {
        skip::missing(program);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_and_a_directory_or_plain_file_of_that_name_is_not() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-program-anywhere"), None);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        assert!(access(dir.path().join("plain"), Access::EXEC_OK).is_err());
    }

    #[test]
    fn each_pinned_directory_is_named_once() {
        let mut dirs = pinned_dirs();
        let count = dirs.len();
        dirs.sort();
        dirs.dedup();
        assert_eq!(dirs.len(), count);
        assert!(dirs.contains(&cache_dir().join("venv/bin")));
    }
}
