//! How many operations at a time a storage is sent that says when it is too many: additive increase, multiplicative
//! decrease. Pure: the clock is passed in.
//!
//! A round is what was begun under one bound. Its answers lower the bound at most once: they all tell of the same
//! crowd. What was begun after that and succeeds raises it, by one for about every round, up to the cap and never
//! beyond. An answer that says to slow down halves the bound; one that took eight times as long as answers of its kind
//! take at best, and more than a second, lowers it by a quarter. How long that is at best is forgotten slowly, so that a
//! storage that has become slower for good is not held back for ever.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::Op;

/// Of a bound that was told to slow down, this remains.
const THROTTLED: f64 = 0.5;

/// Of a bound whose answers are late, this remains.
const LATE: f64 = 0.75;

/// Answers that take so many times as long as at best are late.
const TIMES: u32 = 8;

/// No answer is late that took less: small numbers vary.
const LEAST_LATE: Duration = Duration::from_secs(1);

/// What an answer says of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was carried out, or refused for a reason of its own.
    Fine,
    /// There were too many, or none came in time.
    Throttled,
    /// It says nothing of how many there were.
    Nothing,
}

/// Operations that take alike: of one kind, and with bodies of one order of magnitude.
type Kind = (Op, u32);

/// The bound, and what it follows from.
#[derive(Clone, Debug)]
pub(super) struct Aimd {
    cap: u32,
    bound: f64,
    /// What was begun before says nothing new.
    round: Duration,
    best: HashMap<Kind, Duration>,
}

impl Aimd {
    /// Begins at the cap: most storages never say that it is too many.
    pub(super) fn new(cap: u32) -> Self {
        let cap = cap.max(1);
        Self { cap, bound: f64::from(cap), round: Duration::ZERO, best: HashMap::new() }
    }

    /// Returns how many operations may run, from 1 to the cap.
    pub(super) fn bound(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 1 and the cap"
        )]
        let bound = self.bound as u32;
        bound.clamp(1, self.cap)
    }

    /// Takes an answer to an operation that was begun at `began`, with a body of `bytes`. Times are since any beginning.
    pub(super) fn answered(&mut self, op: Op, bytes: u64, began: Duration, now: Duration, answer: Answer) {
        let late = answer == Answer::Fine && self.is_late(op, bytes, now.saturating_sub(began));
        let factor = match answer {
            Answer::Nothing => return,
            Answer::Throttled => THROTTLED,
            Answer::Fine if late => LATE,
            Answer::Fine => {
                if began >= self.round {
                    self.bound = (self.bound + 1.0 / self.bound).min(f64::from(self.cap));
                }
                return;
            }
        };
        if began >= self.round {
            self.bound = (self.bound * factor).max(1.0);
            // What begins at this very moment is of the new round.
            self.round = now;
        }
    }

    fn is_late(&mut self, op: Op, bytes: u64, took: Duration) -> bool {
        // What the storage does with bytes that it has takes as long as they are many, which nobody says here.
        if matches!(op, Op::Copy | Op::FinishUpload) {
            return false;
        }
        let best = self.best.entry((op, bytes.checked_ilog2().unwrap_or(0))).or_insert(took);
        let late = took >= LEAST_LATE && took > best.saturating_mul(TIMES);
        *best = (*best + *best / 64).min(took);
        late
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn throttled(aimd: &mut Aimd, began: u64, now: u64) {
        aimd.answered(Op::Upload, 10, millis(began), millis(now), Answer::Throttled);
    }

    fn fine(aimd: &mut Aimd, began: u64, now: u64) {
        aimd.answered(Op::Upload, 10, millis(began), millis(now), Answer::Fine);
    }

    #[test]
    fn a_burst_of_refusals_halves_once_and_lasting_ones_go_down_to_one() {
        let mut aimd = Aimd::new(32);
        for _ in 0..32 {
            throttled(&mut aimd, 0, 10);
        }
        assert_eq!(aimd.bound(), 16, "all were begun under the same bound");
        for round in 1..10 {
            throttled(&mut aimd, round * 10, (round + 1) * 10);
        }
        assert_eq!(aimd.bound(), 1);
    }

    #[test]
    fn it_comes_back_by_one_a_round_and_not_beyond_the_cap() {
        let mut aimd = Aimd::new(8);
        throttled(&mut aimd, 0, 10);
        throttled(&mut aimd, 10, 20);
        throttled(&mut aimd, 20, 30);
        assert_eq!(aimd.bound(), 1);
        let (mut now, mut rounds) = (30, 0);
        while aimd.bound() < 8 {
            for _ in 0..aimd.bound() {
                fine(&mut aimd, now, now + 10);
            }
            (now, rounds) = (now + 10, rounds + 1);
        }
        assert!((7..=12).contains(&rounds), "{rounds}");
        fine(&mut aimd, now, now + 10);
        assert_eq!(aimd.bound(), 8);
    }

    /// An answer from before the cut was given to the crowd that was too large.
    #[test]
    fn what_was_begun_before_the_cut_does_not_raise_it() {
        let mut aimd = Aimd::new(8);
        throttled(&mut aimd, 5, 10);
        for _ in 0..100 {
            fine(&mut aimd, 6, 11);
        }
        assert_eq!(aimd.bound(), 4);
    }

    /// A storage that joins ten thousand parts, or copies what is large, is not out of breath.
    #[test]
    fn what_the_storage_does_with_its_own_bytes_is_never_late() {
        for op in [Op::Copy, Op::FinishUpload] {
            let mut aimd = Aimd::new(32);
            aimd.answered(op, 0, millis(0), millis(20), Answer::Fine);
            aimd.answered(op, 0, millis(100), millis(60_000), Answer::Fine);
            assert_eq!(aimd.bound(), 32, "{op:?}");
        }
    }

    #[test]
    fn what_takes_eight_times_as_long_lowers_it_and_what_always_does_does_not() {
        let mut aimd = Aimd::new(8);
        fine(&mut aimd, 0, 300);
        fine(&mut aimd, 300, 2_000);
        assert_eq!(aimd.bound(), 8, "six times as long");
        fine(&mut aimd, 2_000, 5_000);
        assert_eq!(aimd.bound(), 6);
        // A larger body takes longer, and another operation is another.
        aimd.answered(Op::Upload, 1 << 24, millis(5_000), millis(9_000), Answer::Fine);
        aimd.answered(Op::FinishUpload, 10, millis(5_000), millis(9_000), Answer::Fine);
        assert_eq!(aimd.bound(), 6);
        // Slower for good: in the end that is how long it takes.
        let mut now = 9_000;
        for _ in 0..500 {
            fine(&mut aimd, now, now + 4_000);
            now += 4_000;
        }
        assert_eq!(aimd.bound(), 8);
        // Little is never late, however often its best it is.
        let mut aimd = Aimd::new(8);
        fine(&mut aimd, 0, 1);
        fine(&mut aimd, 1, 900);
        assert_eq!(aimd.bound(), 8);
    }

    proptest! {
        #[test]
        fn it_is_never_beyond_the_cap_never_none_and_falls_and_rises_with_reason(
            cap in 0u32..600,
            steps in proptest::collection::vec((0u64..3_000, 0u64..20_000, 0u8..3, 0u64..1 << 30), 0..300),
        ) {
            let mut aimd = Aimd::new(cap);
            let mut now = 0;
            for (passed, took, answer, bytes) in steps {
                now += passed;
                let before = aimd.bound();
                let answer = [Answer::Fine, Answer::Throttled, Answer::Nothing][usize::from(answer)];
                let began = millis(now.saturating_sub(took));
                aimd.answered(Op::PutPart, bytes, began, millis(now), answer);
                let after = aimd.bound();
                prop_assert!((1..=cap.max(1)).contains(&after));
                match answer {
                    Answer::Nothing => prop_assert_eq!(after, before),
                    Answer::Throttled => prop_assert!(after <= before && after >= before / 2),
                    Answer::Fine => prop_assert!(after <= before + 1 && after >= before / 2),
                }
            }
            // Whatever was, a storage that is well is used in full again.
            let mut rounds = 0;
            while aimd.bound() < cap {
                for _ in 0..aimd.bound() {
                    aimd.answered(Op::Metadata, 0, millis(now), millis(now + 1), Answer::Fine);
                }
                now += 1;
                rounds += 1;
                prop_assert!(rounds <= 2 * cap, "it does not come back");
            }
        }
    }
}
