//! `migrator sync`

use std::time::Duration;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::copy::{Task, carry_out};
use crate::cli::run::Drive;
use crate::engine::Removal;
use crate::failure::{Exit, Failure};

/// Copies what is new or changed, and removes from the target what is only there, where that was asked for.
///
/// # Errors
/// Whatever keeps the run from its end; a safeguard refused. Failed files do not.
pub(super) async fn run(context: &Context, args: &args::Sync, drive: Drive) -> Result<Exit, Failure> {
    // Of a few files there is nothing to conclude about what the source lacks: they are copied.
    let removal = (args.delete && drive.only.is_none()).then(|| removal(args));
    carry_out(context, &args.copy, Task::Sync(removal), drive).await
}

fn removal(args: &args::Sync) -> Removal {
    let usual = Removal::default();
    let day = 24 * 3600;
    Removal {
        limit: args.max_delete.unwrap_or(usual.limit),
        quarantine: args
            .quarantine_days
            .map_or(usual.quarantine, |days| Duration::from_secs(u64::from(days) * day)),
        excluded: args.delete_excluded,
        allow_other_filesystem: args.allow_other_filesystem,
    }
}
