//! What a job's runs came to, and what its ledger holds. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::daemon::Ended;
use crate::daemon::job::agenda::Before;
use crate::failure::Exit;
use crate::item::State;
use crate::ledger::{Count, RunEnd, RunId};
use crate::report::{RunTotals, Verdict};

/// The latest run that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Last {
    /// Its number in the ledger; nothing where it never began, and of a cleanup.
    pub run: Option<RunId>,
    /// As metrics have it: `ok`, `some_failed`, `mismatch`, `refused`, `interrupted`, `error`; `nothing_to_do`.
    pub result: &'static str,
    /// As the command would have exited; nothing where a former process ran it.
    pub exit_code: Option<u8>,
    /// When it ended.
    pub ended: Timestamp,
    /// From begin to end.
    pub seconds: f64,
    /// Why it could not go on.
    pub message: Option<String>,
    /// What to do about it.
    pub hints: Vec<String>,
}

impl Last {
    /// Tells a run of this process; `recorded`: of a job whose runs are in the ledger.
    pub(super) fn of(ended: Ended, run: Option<RunId>, recorded: bool, now: Timestamp, seconds: f64) -> Self {
        let idle = ended.exit == Exit::Ok && recorded && run.is_none();
        let result = if idle { NOTHING_TO_DO } else { result_of(ended.exit) };
        let (message, hints) =
            ended.failure.map_or((None, Vec::new()), |failure| (Some(failure.message), failure.hints));
        Self { run, result, exit_code: Some(ended.exit.code()), ended: now, seconds, message, hints }
    }

    /// Tells a run of a former process.
    pub(super) fn recalled(totals: &RunTotals) -> Self {
        let result = match totals.result {
            Verdict::Clean | Verdict::Unverified => OK,
            Verdict::Refused => "refused",
            Verdict::SomeFailed => "some_failed",
            Verdict::Mismatch => "mismatch",
            Verdict::Interrupted | Verdict::Running => "interrupted",
            Verdict::Aborted => "error",
        };
        Self {
            run: Some(totals.run.id),
            result,
            exit_code: None,
            ended: end_of(totals),
            seconds: totals.run.seconds.unwrap_or(0.0),
            message: None,
            hints: Vec::new(),
        }
    }

    /// Tells whether everything was well.
    pub(super) fn is_ok(&self) -> bool {
        self.result == OK || self.result == NOTHING_TO_DO
    }

    /// Tells whether there was something to do.
    pub(super) fn was_a_run(&self) -> bool {
        self.result != NOTHING_TO_DO
    }
}

const OK: &str = "ok";
const NOTHING_TO_DO: &str = "nothing_to_do";

fn result_of(exit: Exit) -> &'static str {
    match exit {
        Exit::Ok => OK,
        Exit::SomeFailed => "some_failed",
        Exit::Mismatch => "mismatch",
        Exit::Refused => "refused",
        Exit::Interrupted => "interrupted",
        Exit::Internal | Exit::Usage | Exit::Config => "error",
    }
}

/// A run that a kill left open ended nobody knows when.
fn end_of(totals: &RunTotals) -> Timestamp {
    totals.run.finished.unwrap_or(totals.run.started)
}

/// Returns what a run of a former process means for the next; `partial`: a job of which a run can be about some files.
pub(super) fn before(totals: &RunTotals, partial: bool) -> Before {
    Before {
        started: totals.run.started,
        ended: end_of(totals),
        whole: totals.run.end == Some(RunEnd::Complete) && totals.run.scanned_to.is_some(),
        failed: matches!(totals.result, Verdict::SomeFailed | Verdict::Aborted | Verdict::Running),
        one_by_one: partial && totals.result == Verdict::SomeFailed,
    }
}

/// What the ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Files of the source that are verified.
    pub verified: Count,
    /// Files of the source, as far as they were seen, and what could not be one.
    pub total: Count,
    /// Entries that failed in the latest copy of everything and are in no state, as no file could be made of them.
    pub unrecorded: Count,
    /// All by state.
    pub states: BTreeMap<State, Count>,
}

impl Coverage {
    /// Adds the files up.
    pub(super) fn of(states: BTreeMap<State, Count>, unrecorded: Count) -> Self {
        let mut total = unrecorded;
        for (_, count) in states.iter().filter(|(state, _)| **state != State::Gone) {
            total.files += count.files;
            total.bytes += count.bytes;
        }
        // A file that was moved away from the source is in the target as verified.
        let mut verified = Count::default();
        for state in [State::Verified, State::Retired] {
            let count = states.get(&state).copied().unwrap_or_default();
            verified.files += count.files;
            verified.bytes += count.bytes;
        }
        Self { verified, total, unrecorded, states }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_no_file_of_the_source() {
        let count = |files| Count { files, bytes: files * 10 };
        let states = [(State::Verified, count(3)), (State::Failed, count(1)), (State::Gone, count(5))].into();
        let coverage = Coverage::of(states, count(2));
        assert_eq!((coverage.verified, coverage.total), (count(3), count(6)));
    }

    #[test]
    fn a_run_that_found_nothing_to_do_is_well_and_no_run() {
        let ended = |exit| Ended { exit, failure: None };
        let last = |exit, run, recorded| Last::of(ended(exit), run, recorded, Timestamp::UNIX_EPOCH, 0.0);
        let idle = last(Exit::Ok, None, true);
        assert!(idle.is_ok() && !idle.was_a_run());
        let ran = last(Exit::Ok, Some(RunId(1)), true);
        assert!(ran.is_ok() && ran.was_a_run());
        // What could not begin is no idle run.
        let failed = last(Exit::Config, None, true);
        assert!(!failed.is_ok() && failed.was_a_run());
        // A cleanup never has a number.
        let cleaned = last(Exit::Ok, None, false);
        assert!(cleaned.is_ok() && cleaned.was_a_run());
    }
}
