//! What to do about an outcome that is not as it should be. Pure.

use crate::ledger::Outcome;

/// Returns the next step for whoever looks at this outcome; nothing where there is nothing to do.
pub fn next_step(outcome: Outcome, reason: &str) -> Option<&'static str> {
    Some(match (outcome, reason) {
        (Outcome::Missing | Outcome::Different, _) => {
            "The next copy sends it again; then `verify --read-back` tells whether it stays right."
        }
        (Outcome::Outdated, "source_damaged") => {
            "The source rotted and the target's copy is the good one: restore this file from the target before the \
             next change makes the copy send the damaged one."
        }
        (Outcome::Outdated, _) => "The source is newer: the next copy sends it again.",
        (Outcome::Unverified, "not_compared") => {
            "Nobody has compared it: a copy without `--verify none`, or `verify --read-back`, does."
        }
        (Outcome::Unverified, _) => "`migrator verify --read-back` compares every byte of it.",
        (Outcome::Extra, _) => "Nobody copied it: leave it, or remove it from the target by hand.",
        (Outcome::Unseen, _) => {
            "Make the directory it lies in readable for this user; until then nothing is said of it."
        }
        (Outcome::Failed, reason) => failed(reason),
        (Outcome::Copied | Outcome::Unchanged, "source_removed") => {
            "To have it back, move it from the quarantine of the source before `cleanup` empties it, or copy it from the \
             target."
        }
        (Outcome::Skipped, "symbolic link" | "symlink") => {
            "Copy what it points to by that name, or keep the link itself with `--preserve symlinks`."
        }
        (Outcome::Skipped, "vanished") => "It was removed while the run was on its way: nothing to do.",
        (Outcome::Skipped, _) => {
            "Only regular files are copied: recreate it at the new place where it is needed."
        }
        (Outcome::NotDeleted, _) => {
            "It changed, or could not be removed: the next `sync --delete` looks at it again."
        }
        (Outcome::Kept, _) => {
            "What is behind the source's link was not seen: remove it from the target by hand where it is not wanted."
        }
        (Outcome::Quarantined, _) => {
            "To have it back, copy it out of the quarantine before `cleanup` empties it."
        }
        (
            Outcome::Copied
            | Outcome::Unchanged
            | Outcome::Matched
            | Outcome::Gone
            | Outcome::Excluded
            | Outcome::Deleted,
            _,
        ) => return None,
    })
}

fn failed(reason: &str) -> &'static str {
    match reason {
        "denied" => {
            "Make it readable for the user that runs this (owner, mode, directory), or grant the key the right to \
             write; then copy again."
        }
        "changing" => {
            "It is being written to. Copy again when it is quiet, or pause whoever writes it: a mixture is never kept."
        }
        "name_too_long" => "Shorten its name: the target cannot hold it.",
        "too_large" => "The target takes no file of this size: split it, or choose another target.",
        "invalid_input" | "name_not_utf8" => "Rename it: such a name cannot be an object's.",
        "missing" | "different" => {
            "The target's copy is not what was verified: the next copy sends it again, and moves it then."
        }
        "unproven" => {
            "Nothing proves the target's copy: `--verify all` reads every byte before the source is moved away."
        }
        "not_a_file" => {
            "It stands for a link or a directory that was kept by `--preserve`: copy with `--preserve all`, as on the way \
             there."
        }
        "same_name" => "Rename all but one of them: the target takes them for one name.",
        "beneath_a_file" => "Rename it, or the file above it: the target cannot hold both.",
        "conflict" => "Rename it, or what it collides with: the target cannot hold both.",
        "integrity" => {
            "Bytes were not those that were sent or stored. Check the disk and the way to the server; then copy again."
        }
        "storage_full" => "Make room in the target; then copy again.",
        "unauthenticated" => "Check the credentials and the clock; then copy again.",
        "misconfigured" => "Check the bucket, the region and the endpoint; then copy again.",
        "unavailable" | "timeout" => "The server was out of reach: copy again once it is back.",
        "throttled" => {
            "The server asked for less: lower `--concurrency` or set `--bandwidth`; then copy again."
        }
        "interrupted" => "The run was stopped before it was done: the same command continues.",
        "not_found" => "It was gone when its turn came: copy again if it is back.",
        "ledger" => "The ledger could not be written: check the disk it lies on; then copy again.",
        _ => {
            "Copy again: single failures are often gone. `migrator explain` tells everything that is known of it."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::is_problem;

    #[test]
    fn whatever_is_a_problem_has_a_next_step() {
        for outcome in Outcome::ALL {
            for reason in ["", "denied", "something_new"] {
                assert!(next_step(outcome, reason).is_some() || !is_problem(outcome), "{outcome:?}");
            }
        }
    }
}
