//! SIGINT and SIGTERM: the first stops in order, the second at once, and no stop takes longer than its limit.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::output::Output;
use crate::failure::{Exit, Failure};

/// Longest time from the first signal to the end of the process.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Listens from now on; cancels `stop` at the first signal.
///
/// # Errors
/// The signals cannot be listened to.
pub(super) fn listen(stop: CancellationToken, output: Output) -> Result<(), Failure> {
    let failed = |error| Failure::internal(format!("cannot listen to signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        stop.cancel();
        // A thread of its own: the limit holds even where every thread of the runtime is stuck.
        std::thread::spawn(|| {
            std::thread::sleep(LIMIT);
            exit();
        });
        output.note(
            "stopping: what is in flight is given up, the ledger is closed; a second signal stops at once",
        );
        either(&mut interrupt, &mut terminate).await;
        exit();
    });
    Ok(())
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Ends the process as it stands: the ledger is made for that.
fn exit() -> ! {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
