//! What the next run of a job depends on: what was before, what has changed, what is to be tried again. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use storage_core::id::FileId;

use crate::daemon::schedule::{self, Due, Past, Times, Why};
use crate::daemon::source::Seen;
use crate::daemon::{Order, Scope};
use crate::failure::Exit;

/// Changed files that are kept one by one; with more, everything is looked at.
pub(super) const MOST_CHANGES: usize = 10_000;

/// What the next run depends on.
#[derive(Debug)]
pub(super) struct Agenda {
    past: Past,
    /// Files that changed; nothing: everything may have.
    changes: Option<BTreeSet<FileId>>,
    retry: Scope,
}

/// What a former process left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    /// Whether it saw everything.
    pub(super) whole: bool,
    /// Whether something is left to do.
    pub(super) failed: bool,
    /// Whether what is left can be done file by file.
    pub(super) one_by_one: bool,
}

impl Agenda {
    /// Makes that of a job that was never run.
    pub(super) fn new(now: Timestamp) -> Self {
        let past = Past { base: now, ..Past::default() };
        Self { past, changes: Some(BTreeSet::new()), retry: Scope::All }
    }

    /// Takes in what was before this process. Slots since then count where downtime is caught up on.
    pub(super) fn recall(&mut self, before: Before, catch_up: bool) {
        if catch_up {
            self.past.base = before.started.min(self.past.base);
        }
        if before.whole {
            self.past.whole = Some(before.ended);
        }
        if before.failed {
            self.past.failures = Some((1, before.ended));
            self.retry = if before.one_by_one { Scope::Failed } else { Scope::All };
        }
    }

    /// Makes up for downtime of which nothing tells what it missed: a slot is due at once.
    pub(super) fn catch_up(&mut self) {
        self.past.base = Timestamp::UNIX_EPOCH;
    }

    /// Notes a change; true where none was known yet.
    pub(super) fn note_change(&mut self, seen: Seen, at: Timestamp) -> bool {
        match (seen, &mut self.changes) {
            (Seen::File(id), Some(changes)) if changes.len() < MOST_CHANGES => {
                changes.insert(id);
            }
            _ => self.changes = None,
        }
        let first = self.past.changes.map_or(at, |(first, _)| first);
        self.past.changes.replace((first, at)).is_none()
    }

    /// Tells whether there are changes that no run has looked at.
    pub(super) fn has_changes(&self) -> bool {
        self.past.changes.is_some()
    }

    /// Returns how many runs in a row have failed.
    pub(super) fn failures(&self) -> u32 {
        self.past.failures.map_or(0, |(failures, _)| failures)
    }

    /// Returns when the next run is due; nothing where nothing but a request begins one.
    pub(super) fn due(&self, times: &Times, zone: &TimeZone, seed: u64) -> Option<Due> {
        schedule::due(times, &self.past, zone, seed)
    }

    /// Returns what a run for this reason is about; a job that is not `partial` always looks at everything.
    pub(super) fn order(&self, why: Why, partial: bool) -> Order {
        let scope = match why {
            Why::Retry => self.retry.clone(),
            Why::Change => match &self.changes {
                // What the run before was about could not be looked at either.
                Some(changes) if partial && self.past.stuck.is_none() => {
                    Scope::Files(changes.iter().cloned().collect())
                }
                _ => Scope::All,
            },
            Why::Schedule | Why::Reconcile | Why::Asked => Scope::All,
        };
        Order { why, scope }
    }

    /// Notes that a run begins: what changes from now on is for the next one.
    pub(super) fn begin(&mut self, order: &Order) {
        if order.why == Why::Change || order.scope == Scope::All {
            self.changes = Some(BTreeSet::new());
            self.past.changes = None;
        }
    }

    /// Notes how a run ended.
    pub(super) fn end(&mut self, order: &Order, exit: Exit, partial: bool, now: Timestamp) {
        self.past.base = now;
        let stuck = matches!(exit, Exit::Internal | Exit::Usage | Exit::Config | Exit::Refused);
        if order.scope == Scope::All && !stuck {
            self.past.whole = Some(now);
        }
        self.past.stuck = stuck.then_some(now);
        let failed = Some((self.failures().saturating_add(1), now));
        match exit {
            // That some files are well says nothing of those that have failed.
            Exit::Ok if matches!(order.scope, Scope::Files(_)) => {}
            Exit::Ok | Exit::Mismatch => self.past.failures = None,
            // Who stops a retry does not want it at once again.
            Exit::Interrupted => self.past.failures = self.past.failures.map(|(failures, _)| (failures, now)),
            Exit::SomeFailed => {
                self.past.failures = failed;
                self.retry = if partial { Scope::Failed } else { Scope::All };
            }
            Exit::Internal | Exit::Usage | Exit::Config | Exit::Refused => {
                self.past.failures = failed;
                // What could not be looked at for want of a storage is looked at when it is back.
                self.retry = Scope::All;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn agenda() -> Agenda {
        Agenda::new(NOW)
    }

    fn file(name: &str) -> FileId {
        FileId::parse(name).unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn run(agenda: &mut Agenda, why: Why, scope: Scope, exit: Exit) {
        let order = Order { why, scope };
        agenda.begin(&order);
        agenda.end(&order, exit, true, NOW);
    }

    fn next(agenda: &Agenda) -> Option<Order> {
        let due = agenda.due(&Times::default(), &TimeZone::UTC, 0)?;
        Some(agenda.order(due.why, true))
    }

    #[test]
    fn what_failed_is_tried_again_and_what_could_not_begin_as_a_whole() {
        let mut agenda = agenda();
        run(&mut agenda, Why::Schedule, Scope::All, Exit::SomeFailed);
        assert_eq!(next(&agenda), Some(Order { why: Why::Retry, scope: Scope::Failed }));
        // A run about other files does not make the failed ones forgotten.
        run(&mut agenda, Why::Change, Scope::Files([file("b")].into()), Exit::Ok);
        assert_eq!(next(&agenda), Some(Order { why: Why::Retry, scope: Scope::Failed }));
        run(&mut agenda, Why::Retry, Scope::Failed, Exit::Config);
        assert_eq!(next(&agenda), Some(Order { why: Why::Retry, scope: Scope::All }));
        run(&mut agenda, Why::Retry, Scope::All, Exit::Ok);
        assert_eq!(next(&agenda), None);
    }

    #[test]
    fn changes_during_a_run_are_for_the_next_one() {
        let mut agenda = agenda();
        assert!(agenda.note_change(Seen::File(file("b")), NOW));
        assert!(!agenda.note_change(Seen::File(file("a")), NOW));
        let order = next(&agenda).unwrap();
        assert_eq!(order, Order { why: Why::Change, scope: Scope::Files([file("a"), file("b")].into()) });
        agenda.begin(&order);
        agenda.note_change(Seen::File(file("c")), NOW);
        agenda.end(&order, Exit::Ok, true, NOW);
        assert_eq!(next(&agenda).unwrap().scope, Scope::Files([file("c")].into()));
        agenda.note_change(Seen::Everything, NOW);
        assert_eq!(next(&agenda).unwrap().scope, Scope::All);
    }

    /// It did, several times a second: a job that watches and never saw everything is due as soon as it is not running.
    #[test]
    fn a_storage_that_cannot_be_opened_is_not_asked_all_the_time() {
        let times = Times { reconcile: Some(Duration::from_secs(86400)), ..Times::default() };
        let mut agenda = agenda();
        let due = |agenda: &Agenda| agenda.due(&times, &TimeZone::UTC, 0).unwrap();
        assert_eq!(due(&agenda), Due { at: NOW, why: Why::Reconcile });
        for wait in [60, 120, 240, 480, 960, 1920] {
            run(&mut agenda, Why::Retry, Scope::All, Exit::Config);
            // Nor is it for each file that changes.
            agenda.note_change(Seen::File(file("a")), NOW);
            assert_eq!(due(&agenda), Due { at: after(wait), why: Why::Retry });
            assert_eq!(agenda.order(Why::Retry, true).scope, Scope::All);
        }
        run(&mut agenda, Why::Retry, Scope::All, Exit::Refused);
        assert_eq!(due(&agenda), Due { at: after(86400), why: Why::Reconcile });
        agenda.note_change(Seen::File(file("a")), NOW);
        assert_eq!(due(&agenda), Due { at: after(3600), why: Why::Change });
        assert_eq!(agenda.order(Why::Change, true).scope, Scope::All, "and what former runs were about");
        run(&mut agenda, Why::Change, Scope::All, Exit::Ok);
        assert_eq!(due(&agenda), Due { at: after(86400), why: Why::Reconcile });
    }

    #[test]
    fn a_run_that_somebody_stops_does_not_begin_again_at_once() {
        let times = Times { reconcile: Some(Duration::from_secs(86400)), ..Times::default() };
        let mut agenda = agenda();
        run(&mut agenda, Why::Reconcile, Scope::All, Exit::Interrupted);
        assert_eq!(
            agenda.due(&times, &TimeZone::UTC, 0),
            Some(Due { at: after(86400), why: Why::Reconcile })
        );
        run(&mut agenda, Why::Asked, Scope::All, Exit::SomeFailed);
        let order = Order { why: Why::Retry, scope: Scope::Failed };
        agenda.begin(&order);
        agenda.end(&order, Exit::Interrupted, true, after(60));
        assert_eq!(agenda.due(&times, &TimeZone::UTC, 0), Some(Due { at: after(120), why: Why::Retry }));
    }

    #[test]
    fn a_flood_of_changes_is_a_look_at_everything_and_no_flood_of_memory() {
        let mut agenda = agenda();
        for number in 0..=MOST_CHANGES {
            agenda.note_change(Seen::File(file(&number.to_string())), NOW);
        }
        assert_eq!(agenda.changes, None);
        assert_eq!(next(&agenda).unwrap().scope, Scope::All);
    }

    #[test]
    fn what_a_former_process_left_is_done_file_by_file_where_that_can_be() {
        let before = Before { started: NOW, ended: NOW, whole: true, failed: true, one_by_one: true };
        let mut agenda = agenda();
        agenda.recall(before, true);
        assert_eq!(next(&agenda), Some(Order { why: Why::Retry, scope: Scope::Failed }));
        agenda.recall(Before { one_by_one: false, ..before }, true);
        assert_eq!(next(&agenda).unwrap().scope, Scope::All);
    }
}
