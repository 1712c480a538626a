//! What the sink keeps: facts about objects, in the order of their keys.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};

/// Objects by `BUCKET/KEY`, uploads by their id. Every bucket exists.
#[derive(Default)]
pub(crate) struct Store {
    objects: Mutex<BTreeMap<Arc<str>, Arc<Object>>>,
    uploads: Mutex<HashMap<String, Upload>>,
    numbers: AtomicU64,
}

/// What a HEAD is answered from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) size: u64,
    /// With its quotes.
    pub(crate) etag: String,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    pub(crate) facts: Facts,
    /// `COMPOSITE` or `FULL_OBJECT`, for the checksum among the facts.
    pub(crate) checksum_type: &'static str,
    /// The bytes, of what is small enough to be asked for them.
    pub(crate) bytes: Option<Bytes>,
}

/// What an upload said of its object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) content_type: Option<HeaderValue>,
    /// `x-amz-meta-*`, `Content-Encoding` and the like.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// One `x-amz-checksum-*`.
    pub(crate) checksum: Option<(HeaderName, HeaderValue)>,
}

/// A multipart upload that is open.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) path: String,
    pub(crate) begun: u64,
    pub(crate) facts: Facts,
    pub(crate) parts: BTreeMap<u32, Part>,
}

/// A part of an upload.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) size: u64,
    pub(crate) etag: String,
    /// Of the bytes, where ETags are MD5.
    pub(crate) md5: Option<[u8; 16]>,
    /// What was declared, and compared where the sink compares.
    pub(crate) checksum: Option<(HeaderName, HeaderValue)>,
    pub(crate) bytes: Option<Bytes>,
}

/// One line of a listing.
pub(crate) enum Entry {
    Object(Arc<str>, Arc<Object>),
    /// What keys up to a delimiter have in common.
    Common(String),
}

/// Which keys a listing has.
pub(crate) struct Query<'a> {
    /// `BUCKET/PREFIX`.
    pub(crate) prefix: &'a str,
    /// `BUCKET/KEY` of the last entry of the page before.
    pub(crate) after: Option<&'a str>,
    pub(crate) delimiter: Option<&'a str>,
    pub(crate) limit: usize,
}

/// A page, and whether there is more.
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) truncated: bool,
}

/// Returns the seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Store {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Object>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open uploads.
    pub(crate) fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a number that nobody has had.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn get(&self, path: &str) -> Option<Arc<Object>> {
        self.objects().get(path).cloned()
    }

    /// Stores an object if `allowed` says so of the one that is there.
    pub(crate) fn put(&self, path: &str, object: Object, allowed: impl Fn(Option<&Object>) -> bool) -> bool {
        let mut objects = self.objects();
        if !allowed(objects.get(path).map(AsRef::as_ref)) {
            return false;
        }
        objects.insert(Arc::from(path), Arc::new(object));
        true
    }

    /// Removes an object if `allowed` says so of it; one that is not there is removed already.
    pub(crate) fn remove(&self, path: &str, allowed: impl Fn(Option<&Object>) -> bool) -> bool {
        let mut objects = self.objects();
        let may = allowed(objects.get(path).map(AsRef::as_ref));
        if may {
            objects.remove(path);
        }
        may
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.objects().clear();
        self.uploads().clear();
    }

    /// Returns count and bytes of the objects beneath a prefix, without the clients' own canaries.
    pub(crate) fn sums(&self, prefix: &str) -> (u64, u64) {
        let objects = self.objects();
        let beneath = from(&objects, prefix).take_while(|(path, _)| path.starts_with(prefix));
        let files = beneath.filter(|(path, _)| !is_reserved(path));
        files.fold((0, 0), |(count, bytes), (_, object)| (count + 1, bytes + object.size))
    }

    /// Returns a page of a listing.
    pub(crate) fn page(&self, query: &Query<'_>) -> Page {
        let objects = self.objects();
        let mut page = Page { entries: Vec::new(), truncated: false };
        let mut start = match query.after {
            Some(after) if after >= query.prefix => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(query.prefix.to_owned()),
        };
        // A common prefix that ended the page before: all beneath it is done.
        if let (Some(delimiter), Some(after)) = (query.delimiter, query.after)
            && after.ends_with(delimiter)
        {
            start = Bound::Included(behind(after));
        }
        loop {
            let mut next = None;
            for (path, object) in objects.range::<str, _>((as_str(&start), Bound::Unbounded)) {
                if !path.starts_with(query.prefix) {
                    return page;
                }
                if page.entries.len() >= query.limit {
                    page.truncated = true;
                    return page;
                }
                let rest = path.get(query.prefix.len()..).unwrap_or_default();
                let cut = query.delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
                match cut {
                    None => page.entries.push(Entry::Object(Arc::clone(path), Arc::clone(object))),
                    Some(cut) => {
                        let common = path.get(..query.prefix.len() + cut).unwrap_or_default().to_owned();
                        next = Some(Bound::Included(behind(&common)));
                        page.entries.push(Entry::Common(common));
                        break;
                    }
                }
            }
            match next {
                Some(next) => start = next,
                None => return page,
            }
        }
    }
}

fn as_str(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(text) => Bound::Included(text),
        Bound::Excluded(text) => Bound::Excluded(text),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn from<'a>(
    objects: &'a BTreeMap<Arc<str>, Arc<Object>>,
    start: &str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
    objects.range::<str, _>((Bound::Included(start), Bound::Unbounded))
}

/// Returns a text behind everything that begins with `prefix`: no key holds the last character of all.
fn behind(prefix: &str) -> String {
    format!("{prefix}\u{10ffff}")
}

/// Tells whether an object is one by which the migrator finds out what a server can do.
pub(crate) fn is_reserved(path: &str) -> bool {
    path.split('/').skip(1).any(|segment| segment == ".storage")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(keys: &[&str]) -> Store {
        let store = Store::default();
        for key in keys {
            store.put(&format!("b/{key}"), Object { size: 1, ..Object::default() }, |_| true);
        }
        store
    }

    fn pages(store: &Store, prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = store.page(&Query { prefix, after: after.as_deref(), delimiter, limit });
            for entry in &page.entries {
                let name = match entry {
                    Entry::Object(path, _) => path.to_string(),
                    Entry::Common(common) => common.clone(),
                };
                after = Some(name.clone());
                all.push(name);
            }
            if !page.truncated {
                return all;
            }
        }
    }

    #[test]
    fn a_listing_is_the_same_whatever_the_size_of_its_pages() {
        let store = store(&["a", "d/1", "d/2", "d/e/3", "d0", "z"]);
        for limit in 1..8 {
            assert_eq!(pages(&store, "b/", None, limit), ["b/a", "b/d/1", "b/d/2", "b/d/e/3", "b/d0", "b/z"]);
            assert_eq!(pages(&store, "b/", Some("/"), limit), ["b/a", "b/d/", "b/d0", "b/z"], "{limit}");
            assert_eq!(pages(&store, "b/d/", Some("/"), limit), ["b/d/1", "b/d/2", "b/d/e/"]);
            assert_eq!(pages(&store, "c/", None, limit), Vec::<String>::new());
        }
    }

    #[test]
    fn canaries_do_not_count() {
        let store = store(&["a", ".storage/probe/x", "p/.storage/probe/y", "p/b"]);
        assert_eq!(store.sums("b/"), (2, 2));
        assert_eq!(store.sums("b/p/"), (1, 1));
    }
}
