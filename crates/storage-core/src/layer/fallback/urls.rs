//! URLs that lead to a spare's copy: it stays until they cease to work, also when the primary has the file.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::id::FileId;

/// How many ids are remembered before those whose URLs have ceased to work are looked for.
const ENOUGH: usize = 1_024;

/// Until when copies are needed. It ends with the process, and its URLs may then die with the next heal.
#[derive(Debug, Default)]
pub(super) struct Urls(Mutex<HashMap<FileId, SystemTime>>);

impl Urls {
    /// Remembers a URL that was handed out.
    pub(super) fn note(&self, id: &FileId, expires: SystemTime) {
        let mut urls = self.lock();
        if urls.len() >= ENOUGH && urls.len().is_power_of_two() {
            let now = SystemTime::now();
            urls.retain(|_, expires| *expires > now);
        }
        let last = urls.entry(id.clone()).or_insert(expires);
        *last = expires.max(*last);
    }

    /// Tells whether a URL of the id's copy works yet.
    pub(super) fn need(&self, id: &FileId) -> bool {
        let mut urls = self.lock();
        let needed = urls.get(id).is_some_and(|expires| *expires > SystemTime::now());
        if !needed {
            urls.remove(id);
        }
        needed
    }

    /// The copy is no more what the URLs were for: the file was written anew, or deleted.
    pub(super) fn forget(&self, id: &FileId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, SystemTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
