//! What changes, as it changes: server-sent events.
//!
//! Each event `jobs` is all jobs, as `/api/v1/jobs` answers, so that a reader who missed some has missed nothing: when
//! something changes, at most four times a second, and every second while a run is in progress.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream};

use crate::web::Site;
use crate::web::api::all_jobs;

/// Least time between two events.
const PAUSE: Duration = Duration::from_millis(250);

/// How often something is sent, so that proxies and readers know that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn events(State(site): State<Site>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut follow = site.daemon.follow();
    follow.mark_changed();
    let stream = stream::unfold((site, follow, true), async |(site, mut follow, first)| {
        tokio::select! {
            biased;
            () = site.closing.cancelled() => return None,
            changed = follow.changed() => changed.ok()?,
        }
        if !first {
            tokio::time::sleep(PAUSE).await;
            follow.mark_unchanged();
        }
        let event = match serde_json::to_string(&all_jobs(&site)) {
            Ok(text) => Event::default().event("jobs").data(text),
            Err(error) => {
                tracing::error!(%error, "an event cannot be written");
                return None;
            }
        };
        Some((Ok(event), (site, follow, false)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
