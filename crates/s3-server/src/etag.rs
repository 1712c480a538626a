//! ETags: version tokens of the storage in a form that no client takes for an MD5.

use s3s::dto::{ETag, ETagCondition};
use storage_core::checksum::Digest;
use storage_core::metadata::FileMetadata;

/// Hex digits of an ETag. Not 32: tools compare an ETag of 32 with the MD5 of what they sent.
const LENGTH: usize = 40;

/// Returns the ETag of a file: equal as long as its version is.
///
/// Derived from the version, which listings carry too, so that a listing and a HEAD agree.
pub(crate) fn of(file: &FileMetadata) -> ETag {
    match &file.version {
        Some(version) => of_token(version.as_str()),
        None => {
            let modified = file.modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            of_token(&format!("{}\n{}\n{modified:?}", file.id, file.size))
        }
    }
}

/// Returns the ETag of a part, or of anything else that a storage names by a token.
pub(crate) fn of_token(token: &str) -> ETag {
    let mut text = Digest::of(token.as_bytes()).to_string();
    text.truncate(LENGTH);
    ETag::Strong(text)
}

/// Tells whether a condition names the ETag; `*` names any.
pub(crate) fn matches(condition: &ETagCondition, etag: &ETag) -> bool {
    condition.as_etag().is_none_or(|wanted| wanted.weak_cmp(etag))
}

#[cfg(test)]
mod tests {
    use storage_core::id::FileId;
    use storage_core::metadata::Version;

    use super::*;

    #[test]
    fn no_etag_looks_like_an_md5() {
        let mut file = FileMetadata::new(FileId::parse("a").unwrap(), 3);
        let without = of(&file);
        file.version = Some(Version::new("d41d8cd98f00b204e9800998ecf8427e"));
        let with = of(&file);
        assert_ne!(without, with);
        for etag in [without, with] {
            assert_eq!(etag.value().len(), LENGTH);
        }
    }
}
