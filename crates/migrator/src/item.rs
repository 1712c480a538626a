//! The life of one file in a migration: states, events, and which may follow which. Pure.
//!
//! ```text
//!            Intend            Publish            Confirm
//!   (new) ----------> Copying ---------> Copied ---------> Verified
//!              ^         |               |    ^               | ^
//!              |         | Fail          |    | Fail          | |
//!              |         v               |    +--(stays)      | |
//!              +------ Failed            | Damage      Damage | | Confirm
//!              |                         v                    v |
//!              +-----------------------  Damaged  <-----------+-+
//!                       Intend
//!   any -- Vanish --> Gone -- Intend --> Copying
//!
//!   Verified -- Retire --> Retired -- Return --> Verified
//!                          Retired -- Intend --> Copying     (a new version under its name)
//! ```
//!
//! A retired file is not gone: this program has moved the source's file away, and the target's is the one that is
//! left. An audit that finds it right, or not, leaves it retired, and nothing makes it gone: whatever removes from the
//! target what the source no longer has must keep it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a file stands, as the ledger keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The intent is recorded. The target may hold the older version, the new one, or parts of an upload.
    Copying,
    /// The target has published the file; nobody has compared its bytes yet.
    Copied,
    /// The target's stored bytes were compared with the digest computed from the source.
    Verified,
    /// The last attempt failed; the target holds at most an older version.
    Failed,
    /// An audit found the target's file missing or different: it will be copied again.
    Damaged,
    /// The source no longer has the file. The target's copy stays, unless a sync removes it.
    Gone,
    /// The source's file was moved to quarantine after the target's was verified: the target's copy stays, whatever is
    /// removed there.
    Retired,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Copying, Self::Copied, Self::Verified, Self::Failed, Self::Damaged, Self::Gone, Self::Retired];

    /// Returns the name that the ledger stores and reports show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Copied => "copied",
            Self::Verified => "verified",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
            Self::Gone => "gone",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownState(String);

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no state of a file", self.0)
    }
}

impl std::error::Error for UnknownState {}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run is about to copy it.
    Intend,
    /// A multipart upload began, ended unpublished, or stored a part.
    Upload,
    /// The target published it.
    Publish,
    /// Its stored bytes were compared and are right.
    Confirm,
    /// The attempt failed for good, for this run.
    Fail,
    /// An audit found it missing or different.
    Damage,
    /// The source no longer has it.
    Vanish,
    /// The source's file is about to be moved to quarantine.
    Retire,
    /// The source's file was not moved after all: the very version that was to be is still there.
    Return,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 9] = [
        Self::Intend,
        Self::Upload,
        Self::Publish,
        Self::Confirm,
        Self::Fail,
        Self::Damage,
        Self::Vanish,
        Self::Retire,
        Self::Return,
    ];
}

/// Returns the state after `event`, or nothing where the event cannot happen in that state. `None` is a file
/// that the ledger does not know.
pub const fn next(state: Option<State>, event: Event) -> Option<State> {
    use State::{Copied, Copying, Damaged, Failed, Gone, Retired, Verified};
    match (state, event) {
        (_, Event::Intend) => Some(Copying),
        (Some(Copying), Event::Upload) => Some(Copying),
        (Some(Copying), Event::Publish) => Some(Copied),
        (Some(Copied | Verified | Damaged), Event::Confirm) => Some(Verified),
        (Some(Copying), Event::Fail) => Some(Failed),
        // It is published: what failed is comparing it, and nothing has to be sent again for that.
        (Some(Copied), Event::Fail) => Some(Copied),
        (Some(Copied | Verified | Damaged), Event::Damage) => Some(Damaged),
        (Some(Copying | Copied | Verified | Failed | Damaged | Gone), Event::Vanish) => Some(Gone),
        (Some(Verified), Event::Retire) => Some(Retired),
        // What an audit finds is told beside: a damaged copy of a file that is nowhere else is kept above all.
        (Some(Retired), Event::Confirm | Event::Damage) => Some(Retired),
        (Some(Retired), Event::Return) => Some(Verified),
        _ => None,
    }
}

/// Returns the states in which `event` can happen: what a compare-and-set compares with.
pub fn sources(event: Event) -> impl Iterator<Item = State> {
    State::ALL.into_iter().filter(move |state| next(Some(*state), event).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_verified_that_was_not_published_first() {
        for state in State::ALL.map(Some).into_iter().chain([None]) {
            for event in Event::ALL {
                if next(state, event) == Some(State::Verified) {
                    let published =
                        [State::Copied, State::Verified, State::Damaged, State::Retired].map(Some);
                    assert!(published.contains(&state), "{state:?} {event:?}");
                }
                if next(state, event) == Some(State::Copied) && state != Some(State::Copied) {
                    assert_eq!((state, event), (Some(State::Copying), Event::Publish));
                }
            }
        }
    }

    #[test]
    fn every_state_can_be_left_by_copying_again() {
        for state in State::ALL {
            assert_eq!(next(Some(state), Event::Intend), Some(State::Copying));
        }
    }

    /// A sync removes what is gone.
    #[test]
    fn nothing_but_a_new_version_leads_from_retired_to_where_a_sync_removes() {
        for event in Event::ALL {
            let after = next(Some(State::Retired), event);
            let kept = [None, Some(State::Retired), Some(State::Verified), Some(State::Copying)];
            assert!(kept.contains(&after), "{event:?} {after:?}");
            assert_eq!(after == Some(State::Copying), event == Event::Intend, "{event:?}");
        }
        for state in State::ALL {
            let retires = next(Some(state), Event::Retire).is_some();
            assert_eq!(retires, state == State::Verified, "{state}");
        }
    }

    #[test]
    fn an_unknown_file_can_only_be_intended() {
        for event in Event::ALL {
            assert_eq!(next(None, event).is_some(), event == Event::Intend, "{event:?}");
        }
    }

    #[test]
    fn names_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("done".parse::<State>().is_err());
    }
}
