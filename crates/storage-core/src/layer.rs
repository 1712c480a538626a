//! What is put around a storage. No layer knows a backend.
//!
//! From outside in: [`metered`] counts and traces whole operations; `cache` (with the feature of that name)
//! answers some from memory; `fallback` (likewise) makes one storage of two, and leaves alone one that is out
//! ([`breaker`]); around each storage, [`retry`] repeats operations; [`limit`] holds a
//! permit for each attempt, so that waiting to retry holds none; [`timeout`] is innermost, as its clock starts
//! when the permit is held and a call that hangs would otherwise never fail.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Op, Result};
use crate::storage::{FileStorage, ResumableUpload};

pub mod breaker;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "fallback")]
pub mod fallback;
pub mod limit;
pub mod metered;
#[cfg_attr(
    all(not(feature = "fallback"), not(test)),
    expect(dead_code, reason = "the one who asks how long a call has waited is the fallback")
)]
mod queue;
pub mod retry;
pub mod timeout;

/// Returns the part-wise uploads of the storage inside a layer. A layer offers them only where they are there,
/// so the error is for a storage that changes its mind.
fn parts_of(inner: &Arc<dyn FileStorage>, op: Op) -> Result<&dyn ResumableUpload> {
    inner.resumable().ok_or_else(|| Error::new(ErrorKind::Unsupported, op).with_storage(inner.name()))
}
