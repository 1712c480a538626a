//! What a service manager is told, where there is one (`sd_notify(3)`): ready, reloading, stopping, alive.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::daemon::Daemon;

/// Tells that the daemon serves; also ends a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that the configuration is being read again.
pub fn reloading() {
    // Without the time, `Type=notify-reload` would wait for it in vain.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// Tells that the daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that the daemon is alive, twice as often as the service manager demands and only while its scheduler is.
pub async fn keep_alive(daemon: Daemon) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        // A daemon that is stopping has its own limit.
        if daemon.is_well() || daemon.stop().is_cancelled() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
