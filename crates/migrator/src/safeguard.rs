//! What must hold before a sync removes a file. Pure: decisions over numbers, no storage in sight.
//!
//! **An incomplete view never deletes.** Whatever could not be read, copied or listed withholds every removal, and no
//! option changes that. A view that is complete may still be the wrong one (a source that is not mounted, another disk,
//! a directory that somebody emptied): that is what the other guards are for, and each can be overruled by the one
//! option that its refusal names.

use std::fmt;
use std::str::FromStr;

use crate::ledger::Withheld;

/// How many files a sync may remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// 10 % of the target or 1,000, whichever is more: a small target may change as a whole, a large one never does
    /// without somebody knowing.
    #[default]
    Usual,
    /// So many.
    Files(u64),
    /// So many of a hundred files of the target.
    Percent(u8),
}

impl Limit {
    /// Returns how many of `target` files may be removed.
    pub fn of(self, target: u64) -> u64 {
        match self {
            Self::Usual => percent(target, 10).max(1000),
            Self::Files(files) => files,
            Self::Percent(of_hundred) => percent(target, of_hundred),
        }
    }
}

fn percent(target: u64, of_hundred: u8) -> u64 {
    u64::try_from(u128::from(target) * u128::from(of_hundred) / 100).unwrap_or(u64::MAX)
}

/// A text that is no [`Limit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLimit(String);

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no limit: write a number of files, or a share of the target as in 25%", self.0)
    }
}

impl std::error::Error for InvalidLimit {}

impl FromStr for Limit {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let invalid = || InvalidLimit(text.to_owned());
        // `+5` is a number to the standard library.
        let number = |digits: &str| {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
        };
        match text.strip_suffix('%') {
            Some(share) => {
                let share = number(share).and_then(|share| u8::try_from(share).ok());
                share.filter(|share| *share <= 100).map(Self::Percent).ok_or_else(invalid)
            }
            None => number(text).map(Self::Files).ok_or_else(invalid),
        }
    }
}

/// What two complete or incomplete walks have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Entries of the source, of whatever kind.
    pub source: u64,
    /// Whether every part of the source could be read.
    pub source_complete: bool,
    /// Files of the target that the sync is about.
    pub target: u64,
    /// Whether every part of the target could be read.
    pub target_complete: bool,
    /// Files that the sync failed to copy.
    pub failed: u64,
    /// Files that are in the target only.
    pub candidates: u64,
}

impl View {
    /// Adds what the copy before it has seen: whether the source as a whole, and how many files it failed to copy.
    #[must_use]
    pub fn after_copy(self, source_complete: bool, failed: u64) -> Self {
        Self { source_complete: self.source_complete && source_complete, failed, ..self }
    }
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every candidate may be removed, each after another look at it.
    Remove,
    /// None may.
    Withhold(Withheld),
}

/// Why a safeguard refused, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The source has no entry at all.
    #[error("nothing was deleted: the source is empty, and the target has {candidates} files that it lacks")]
    SourceEmpty {
        /// Files in the target only.
        candidates: u64,
    },
    /// The source is on another file system than before.
    #[error("nothing was done: the source{} is on another file system than before ({now}, before {before})",
        .path.as_ref().map(|path| format!(" {path}")).unwrap_or_default())]
    Elsewhere {
        /// The source, and where its file system is mounted, where that is known.
        path: Option<String>,
        /// Where the ledger knows it.
        before: String,
        /// Where it is.
        now: String,
    },
    /// Files of the source were moved away, and the ledger does not know of all of them.
    #[error(
        "nothing was deleted: files of the source were moved away after they were migrated{} ({place}), and this ledger \
         does not know which",
        .pair.as_ref().map(|pair| format!(", {pair}")).unwrap_or_default()
    )]
    Forgotten {
        /// Where to, beneath the source.
        place: String,
        /// From where and to where they were migrated, where that is known.
        pair: Option<String>,
    },
    /// More files than the limit allows.
    #[error(
        "nothing was deleted: {candidates} of {target} files are in the target only, the limit is {limit}"
    )]
    TooMany {
        /// Files in the target only.
        candidates: u64,
        /// Files in the target.
        target: u64,
        /// The most that may be deleted.
        limit: u64,
    },
}

impl Refusal {
    /// Returns the refusal that a judgement comes to; nothing where no option could allow it.
    pub fn of(withheld: Withheld, view: &View, limit: Limit) -> Option<Self> {
        let View { candidates, target, .. } = *view;
        match withheld {
            Withheld::SourceEmpty => Some(Self::SourceEmpty { candidates }),
            Withheld::TooMany => Some(Self::TooMany { candidates, target, limit: limit.of(target) }),
            Withheld::CopyFailed | Withheld::SourceIncomplete | Withheld::TargetIncomplete => None,
        }
    }

    /// Says what to look at, and names the one option that would allow it.
    pub fn hint(&self) -> String {
        match self {
            Self::SourceEmpty { candidates } => format!(
                "check that the source is mounted and is the right one; if it is really empty now, say so with \
                 --allow-empty-source: then all {candidates} are removed from the target, unless they are more than \
                 --max-delete"
            ),
            Self::Elsewhere { .. } => {
                "check that the source is mounted and is the right one; if it has moved, say so \
                 with --allow-other-filesystem"
                    .to_owned()
            }
            Self::Forgotten { place, .. } => format!(
                "name source and target as that migration did, and use its ledger (--ledger PATH): the copies of what was \
                 moved away, perhaps the only ones, would be taken for left over; if none of them is in this target, \
                 move {place} out of the source"
            ),
            Self::TooMany { candidates, .. } => format!(
                "check that the source is what it should be; if they are really to go, say so with \
                 --max-delete {candidates}"
            ),
        }
    }
}

/// Judges a view.
pub fn judge(view: &View, limit: Limit, allow_empty_source: bool) -> Judgement {
    // What no option can allow comes first: a refusal must not name an option that would not help.
    if !view.source_complete {
        return Judgement::Withhold(Withheld::SourceIncomplete);
    }
    if view.failed > 0 {
        return Judgement::Withhold(Withheld::CopyFailed);
    }
    if !view.target_complete {
        return Judgement::Withhold(Withheld::TargetIncomplete);
    }
    if view.candidates == 0 {
        return Judgement::Remove;
    }
    if view.source == 0 && !allow_empty_source {
        return Judgement::Withhold(Withheld::SourceEmpty);
    }
    if view.candidates > limit.of(view.target) {
        return Judgement::Withhold(Withheld::TooMany);
    }
    Judgement::Remove
}

/// Tells whether the source is on another file system than it was before. Where either is not known, nothing can be
/// told.
pub fn is_elsewhere(before: Option<&str>, now: Option<&str>) -> bool {
    matches!((before, now), (Some(before), Some(now)) if before != now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(source: u64, target: u64, candidates: u64) -> View {
        View { source, source_complete: true, target, target_complete: true, failed: 0, candidates }
    }

    #[test]
    fn the_usual_limit_is_ten_percent_or_a_thousand() {
        for (target, limit) in
            [(0, 1000), (9_999, 1000), (10_000, 1000), (10_010, 1001), (1 << 40, (1 << 40) / 10)]
        {
            assert_eq!(Limit::Usual.of(target), limit, "{target}");
        }
        let at = |candidates| judge(&whole(1, 20_000, candidates), Limit::Usual, false);
        assert_eq!(at(2000), Judgement::Remove);
        assert_eq!(at(2001), Judgement::Withhold(Withheld::TooMany));
    }

    #[test]
    fn a_limit_that_was_given_is_the_limit() {
        for (text, limit) in [
            ("0", Limit::Files(0)),
            ("1000000", Limit::Files(1_000_000)),
            ("0%", Limit::Percent(0)),
            ("100%", Limit::Percent(100)),
        ] {
            assert_eq!(text.parse(), Ok(limit));
        }
        for text in ["", "%", "101%", "-1", "+1", "1.5%", "many", "1 %"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
        assert_eq!(judge(&whole(1, 10, 1), Limit::Files(0), false), Judgement::Withhold(Withheld::TooMany));
        assert_eq!(judge(&whole(1, 10, 5), Limit::Percent(50), false), Judgement::Remove);
        assert_eq!(
            judge(&whole(1, 10, 6), Limit::Percent(50), false),
            Judgement::Withhold(Withheld::TooMany)
        );
        assert_eq!(judge(&whole(1, 10, 10), Limit::Percent(100), false), Judgement::Remove);
    }

    #[test]
    fn an_empty_source_needs_leave_even_below_the_limit() {
        assert_eq!(judge(&whole(0, 5, 5), Limit::Usual, false), Judgement::Withhold(Withheld::SourceEmpty));
        assert_eq!(judge(&whole(0, 5, 5), Limit::Usual, true), Judgement::Remove);
        assert_eq!(judge(&whole(0, 5000, 5000), Limit::Usual, true), Judgement::Withhold(Withheld::TooMany));
        assert_eq!(judge(&whole(0, 0, 0), Limit::Usual, false), Judgement::Remove);
    }

    #[test]
    fn another_file_system_is_told_only_where_both_are_known() {
        assert!(is_elsewhere(Some("a"), Some("b")));
        for (before, now) in [(Some("a"), Some("a")), (None, Some("a")), (Some("a"), None), (None, None)] {
            assert!(!is_elsewhere(before, now));
        }
    }

    proptest! {
        #[test]
        fn an_incomplete_view_never_deletes(
            source: u64, target: u64, candidates: u64, failed in 0u64..3,
            source_complete: bool, target_complete: bool, empty: bool, percent in 0u8..=100, files: u64,
        ) {
            let view = View { source, source_complete, target, target_complete, failed, candidates };
            for limit in [Limit::Usual, Limit::Files(files), Limit::Percent(percent)] {
                let judged = judge(&view, limit, empty);
                if failed > 0 || !source_complete || !target_complete {
                    let incomplete =
                        matches!(judged, Judgement::Withhold(withheld) if !withheld.is_refusal());
                    prop_assert!(incomplete, "{:?}", judged);
                } else if judged == Judgement::Remove {
                    prop_assert!(candidates == 0 || candidates <= limit.of(target));
                    prop_assert!(candidates == 0 || source > 0 || empty);
                }
            }
        }
    }
}
