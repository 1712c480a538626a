//! The environment variables that the tool reads, all of them, in one place.
//!
//! Credentials are not among them: the S3 client reads those itself, and nothing here ever holds a secret. The one
//! that the daemon takes, [`MIGRATOR_TOKEN`], goes straight to where it is compared. A customer's key is in a variable
//! that whoever runs the tool names ([`KeySource`](super::sse::KeySource)).

use std::ffi::OsString;
use std::path::PathBuf;

/// Filter of log lines (`tracing` directives: `info`, `storage_core=debug`); overrules `-v` and `-q`.
pub const MIGRATOR_LOG: &str = "MIGRATOR_LOG";
/// File whose first line is the daemon's token; overrules the configuration file. Its path is no secret.
pub const MIGRATOR_TOKEN_FILE: &str = "MIGRATOR_TOKEN_FILE";
/// The daemon's token itself, where neither names a file. Read where it is needed, and kept nowhere here.
pub const MIGRATOR_TOKEN: &str = "MIGRATOR_TOKEN";
/// Set by systemd for units with `StateDirectory=`; may name several directories, the first is taken.
pub const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// Where state lives (XDG Base Directory Specification); default: `~/.local/state`.
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// Where configuration lives (XDG Base Directory Specification); default: `~/.config`.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The user's home directory.
pub const HOME: &str = "HOME";
/// Set to anything: no colours (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";
/// The configuration file of the whole machine.
pub const SYSTEM_CONFIG: &str = "/etc/migrator/config.toml";

/// The values of those variables, so that what depends on them can be tested without touching the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// [`MIGRATOR_LOG`]
    pub log: Option<String>,
    /// [`MIGRATOR_TOKEN_FILE`]
    pub token_file: Option<PathBuf>,
    /// [`STATE_DIRECTORY`], its first entry.
    pub state_directory: Option<PathBuf>,
    /// [`XDG_STATE_HOME`]
    pub state_home: Option<PathBuf>,
    /// [`XDG_CONFIG_HOME`]
    pub config_home: Option<PathBuf>,
    /// [`HOME`]
    pub home: Option<PathBuf>,
    /// [`NO_COLOR`]
    pub no_color: bool,
}

impl Env {
    /// Reads them by `get`; an empty value counts as not set.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        // The XDG specification: a relative path is invalid and is ignored.
        let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            log: get(MIGRATOR_LOG).and_then(|value| value.into_string().ok()),
            token_file: get(MIGRATOR_TOKEN_FILE).map(PathBuf::from),
            state_directory: get(STATE_DIRECTORY)
                .and_then(|value| std::env::split_paths(&value).next())
                .filter(|path| path.is_absolute()),
            state_home: absolute(XDG_STATE_HOME),
            config_home: absolute(XDG_CONFIG_HOME),
            home: absolute(HOME),
            no_color: get(NO_COLOR).is_some(),
        }
    }

    /// Reads them from the process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var_os(name))
    }

    /// Returns the directory for ledgers that are given no path, or nothing where there is not even a home.
    pub fn ledger_directory(&self) -> Option<PathBuf> {
        if let Some(directory) = &self.state_directory {
            return Some(directory.clone());
        }
        let state = self.state_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(state.join("migrator"))
    }

    /// Returns the configuration files that are read when none is named; the first that exists is taken.
    pub fn config_candidates(&self) -> Vec<PathBuf> {
        let user = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        user.map(|directory| directory.join("migrator/config.toml"))
            .into_iter()
            .chain([PathBuf::from(SYSTEM_CONFIG)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn the_unit_of_systemd_keeps_its_state_where_it_may_write() {
        let both = env(&[(STATE_DIRECTORY, "/var/lib/migrator:/var/lib/other"), (HOME, "/root")]);
        assert_eq!(both.ledger_directory().unwrap(), PathBuf::from("/var/lib/migrator"));
        assert_eq!(
            env(&[(HOME, "/h")]).ledger_directory().unwrap(),
            PathBuf::from("/h/.local/state/migrator")
        );
        assert_eq!(
            env(&[(XDG_STATE_HOME, "/s"), (HOME, "/h")]).ledger_directory().unwrap(),
            PathBuf::from("/s/migrator")
        );
        assert_eq!(env(&[]).ledger_directory(), None);
    }

    #[test]
    fn empty_and_relative_values_count_as_not_set() {
        let odd = env(&[(XDG_STATE_HOME, "rel"), (XDG_CONFIG_HOME, ""), (HOME, "/h"), (NO_COLOR, "")]);
        assert_eq!(odd.ledger_directory().unwrap(), PathBuf::from("/h/.local/state/migrator"));
        assert_eq!(odd.config_candidates()[0], PathBuf::from("/h/.config/migrator/config.toml"));
        assert!(!odd.no_color);
    }
}
