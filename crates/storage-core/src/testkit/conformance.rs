//! One test per promise of [`FileStorage`]: what an implementation, or a layer around one, must pass.
//!
//! ```
//! use std::sync::Arc;
//! use storage_core::backend::memory::MemoryStorage;
//! use storage_core::testkit::conformance::Fixture;
//!
//! async fn memory() -> Fixture {
//!     let storage = MemoryStorage::new();
//!     let other = storage.clone();
//!     Fixture::new(Arc::new(storage)).with_corruption(move |id| {
//!         assert!(other.corrupt(id));
//!     })
//! }
//!
//! // One `#[tokio::test]` per case, in a module of this name.
//! storage_core::conformance!(memory_keeps_its_promises, memory);
//! # fn main() {}
//! ```
//!
//! Each case asks for a fixture of its own, with an empty storage. Where a capability is absent, the case
//! asserts that the call is refused with [`Unsupported`](crate::error::ErrorKind::Unsupported) and left no
//! trace; nothing is skipped in silence. The calling crate needs `tokio` with `macros` and `rt-multi-thread`.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::id::FileId;
use crate::storage::{FileStorage, ResumableUpload};

pub mod copy;
pub mod delete;
pub mod download;
pub mod ids;
pub mod list;
pub mod metadata;
pub mod presign;
pub mod probe;
pub mod races;
pub mod resumable;
mod support;
pub mod upload;

type Corrupt = Box<dyn Fn(&FileId) + Send + Sync>;

/// A fresh, empty storage for one case, and what the case may know of it.
pub struct Fixture {
    storage: Arc<dyn FileStorage>,
    another: Option<Arc<dyn FileStorage>>,
    read_only: Option<Arc<dyn FileStorage>>,
    corrupt: Option<Corrupt>,
    uncorrupted: &'static str,
    empty_parts: bool,
    concurrency: usize,
    large: usize,
    many: usize,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Fixture {
    /// Takes an empty storage that nobody else uses.
    pub fn new(storage: Arc<dyn FileStorage>) -> Self {
        Self {
            storage,
            another: None,
            read_only: None,
            corrupt: None,
            uncorrupted: "the fixture cannot change stored bytes",
            empty_parts: true,
            concurrency: usize::MAX,
            large: 12 << 20,
            many: 300,
            _guard: None,
        }
    }

    /// Keeps a value alive until the case has ended: a temporary directory, a running server.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    /// Sets a second opening of the same place, as another process would have. Default: the same handle.
    #[must_use]
    pub fn with_another(mut self, another: Arc<dyn FileStorage>) -> Self {
        self.another = Some(another);
        self
    }

    /// Sets an opening of the same place for reading only. Default: none, the case says that it was left out.
    #[must_use]
    pub fn with_read_only(mut self, read_only: Arc<dyn FileStorage>) -> Self {
        self.read_only = Some(read_only);
        self
    }

    /// Sets a function that changes stored bytes without their size behind the storage's back. Default: none,
    /// the case says that it was left out.
    #[must_use]
    pub fn with_corruption(mut self, corrupt: impl Fn(&FileId) + Send + Sync + 'static) -> Self {
        self.corrupt = Some(Box::new(corrupt));
        self
    }

    /// Says why there is no function for [`with_corruption`](Self::with_corruption): what the case prints.
    #[must_use]
    pub fn without_corruption(mut self, reason: &'static str) -> Self {
        self.corrupt = None;
        self.uncorrupted = reason;
        self
    }

    /// Has a storage refuse a part of no bytes with [`Unsupported`](crate::error::ErrorKind::Unsupported), for
    /// servers that take none. Default: an empty file may be one empty part.
    #[must_use]
    pub fn without_empty_parts(mut self) -> Self {
        self.empty_parts = false;
        self
    }

    /// Sets how many operations the storage runs at a time. With one, cases that act while they read a body
    /// say that they were left out. Default: no limit.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets the size in bytes of a large file, which should take the storage's way for large files (several
    /// parts). Default: 12 MiB, two parts of the least size on S3 and some more.
    #[must_use]
    pub fn with_large(mut self, large: usize) -> Self {
        self.large = large;
        self
    }

    /// Sets the number of files in a long listing, which should take more than one page. Default: 300, as
    /// durable local storages are slow; S3 pages have 1,000.
    #[must_use]
    pub fn with_many(mut self, many: usize) -> Self {
        self.many = many;
        self
    }

    /// Returns the storage under test.
    pub fn storage(&self) -> &Arc<dyn FileStorage> {
        &self.storage
    }

    fn another(&self) -> &Arc<dyn FileStorage> {
        self.another.as_ref().unwrap_or(&self.storage)
    }

    /// Returns the part-wise uploads, after checking that the capabilities tell the truth about them.
    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        let resumable = self.storage.resumable();
        assert_eq!(self.storage.capabilities().resumable, resumable.is_some(), "capabilities().resumable");
        resumable
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("storage", &self.storage).finish_non_exhaustive()
    }
}

/// What a case does: it panics where the promise is not kept.
pub type Run = fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A case by name, for harnesses that choose at run time.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// `group::case`
    pub name: &'static str,
    /// Runs it.
    pub run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All cases.
pub const CASES: &[Case] = crate::conformance!(@list table []);

/// Makes a module with one `#[tokio::test]` for each conformance case.
///
/// `conformance!(name_of_module, fixture)`, where `fixture()` is a future of a
/// [`Fixture`](crate::testkit::conformance::Fixture).
#[macro_export]
macro_rules! conformance {
    ($name:ident, $fixture:expr $(,)?) => {
        $crate::conformance! { @list tests [$name, $fixture] }
    };
    (@tests [$name:ident, $fixture:expr] $($group:ident { $($case:ident)* })*) => {
        mod $name {
            $(mod $group {
                #[allow(unused_imports, reason = "a fixture may be a full path")]
                use super::super::*;
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let fixture = ($fixture)().await;
                        $crate::testkit::conformance::$group::$case(&fixture).await;
                    }
                )*
            })*
        }
    };
    (@table [] $($group:ident { $($case:ident)* })*) => {
        &[$($(
            Case {
                name: concat!(stringify!($group), "::", stringify!($case)),
                run: |fixture| Box::pin(async move { $group::$case(&fixture).await }),
            },
        )*)*]
    };
    (@list $callback:ident [$($args:tt)*]) => {
        $crate::conformance! { @$callback [$($args)*]
            upload {
                gives_back_the_bytes
                gives_back_an_empty_file
                gives_back_a_large_file
                takes_a_body_in_small_pieces
                takes_a_file_as_body
                answers_with_the_digest_of_the_stored_bytes
                says_who_verified
                replaces_bytes_and_attributes
                refuses_bytes_that_do_not_have_the_given_digest
                refuses_a_large_body_that_does_not_have_the_given_digest
                publishes_nothing_when_the_body_changes
                publishes_nothing_when_the_body_ends_early
                publishes_nothing_when_the_body_is_too_long
                publishes_nothing_when_the_body_fails
                dropped_publishes_nothing
                dropped_large_publishes_nothing
                dropped_keeps_what_was_there
                absent_creates
                absent_refuses_to_replace
                version_replaces_that_version
                version_refuses_another_version
                version_refuses_where_nothing_is_stored
                refuses_tags_it_cannot_keep
                refuses_an_empty_tag_key
                read_only_refuses_to_write
            }
            download {
                reports_the_whole_range_and_the_metadata
                missing_is_not_found
                beneath_a_file_is_not_found
                from_an_offset
                between_two_offsets
                end_behind_the_last_byte_means_the_last_byte
                last_bytes
                more_last_bytes_than_there_are_means_all
                range_behind_the_last_byte_is_invalid
                empty_range_is_invalid
                range_of_an_empty_file_is_invalid
                ranges_of_a_large_file
                range_carries_the_metadata_of_the_whole
                that_version
                another_version_is_refused
                range_of_that_version
                whole_read_of_corrupt_bytes_never_ends_cleanly
                ended_has_nothing_more
                may_be_dropped_half_way
            }
            metadata {
                missing_is_not_found
                beneath_a_file_is_not_found
                keeps_every_attribute
                keeps_names_of_every_script
                keeps_created_to_the_nanosecond
                keeps_created_before_1970
                makes_up_no_name_and_no_time
                content_type_is_guessed_from_the_file_name
                content_type_is_guessed_from_the_id
                content_type_of_an_unknown_extension
                keeps_tags
                keeps_the_digest_that_was_given
                digest_never_lies
                is_the_same_in_receipt_and_download
                version_changes_with_the_bytes
                version_stays_while_nothing_changes
                large_files_keep_every_attribute
            }
            delete {
                removes_the_file
                nothing_to_delete_is_false
                leaves_siblings
                leaves_what_lies_beneath
                lets_the_id_be_used_again
                lets_a_directory_become_a_file
                that_version
                another_version_stays
                absent_is_invalid
                version_of_a_missing_file
            }
            list {
                nothing
                in_byte_order
                all_of_a_prefix
                prefix_that_ends_within_a_segment
                prefix_that_is_an_id
                prefix_that_matches_nothing
                start_after_an_id
                start_after_an_id_that_is_not_there
                start_after_before_the_prefix
                start_after_the_prefix_yields_nothing
                agrees_with_metadata
                more_than_a_page
                goes_on_where_it_broke_off
                random_ids_as_a_sorted_set
                what_stays_is_listed_once_while_others_come_and_go
                does_not_show_what_is_not_published
                ended_has_nothing_more
                may_be_dropped_half_way
            }
            copy {
                copies_bytes_and_attributes
                replaces_given_attributes
                copies_a_large_file
                leaves_the_source
                replaces_the_target
                missing_source_is_not_found
                onto_itself_changes_attributes
                absent_creates_and_refuses_to_replace
                version_replaces_that_version_only
                refuses_bytes_that_do_not_have_the_given_digest
                refuses_tags_it_cannot_keep
                is_independent_of_its_source
            }
            ids {
                are_kept_byte_for_byte
                differ_by_every_byte
                of_the_greatest_length
                longer_than_the_storage_takes_are_refused
                reserved_are_refused
                close_to_reserved_are_ordinary
                nested_or_in_conflict
            }
            races {
                one_creator_wins
                one_replacer_of_a_version_wins
                one_copy_wins
                readers_see_old_or_new
                a_reader_ends_with_the_version_it_began
                a_reader_of_a_deleted_file_sees_the_whole_or_an_error
                many_writers_leave_one_whole_file
            }
            presign {
                get_can_be_performed_by_anyone
                put_can_be_performed_by_anyone
                refuses_an_expiry_out_of_range
                refuses_options_of_the_other_method
                read_only_signs_for_reading_only
            }
            probe {
                succeeds_and_leaves_nothing
                is_silent_beside_other_work
                read_only_succeeds
            }
            resumable {
                is_there_when_the_capabilities_say_so
                publishes_the_parts_as_one_file
                shows_nothing_before_finish
                keeps_what_was_there_until_finish
                keeps_every_attribute
                takes_parts_in_any_order
                takes_parts_at_the_same_time
                a_part_that_was_put_again_replaces_itself
                refuses_a_part_that_does_not_have_its_digest
                lists_the_parts_it_holds
                goes_on_from_another_process
                takes_one_short_part
                takes_an_empty_file
                refuses_part_sizes_out_of_range
                refuses_to_finish_with_a_part_missing
                refuses_to_finish_with_a_part_replaced_since
                refuses_to_finish_without_parts
                finish_absent_creates_and_refuses_to_replace
                finish_version_replaces_that_version_only
                finish_again_is_success
                finish_again_after_a_replacement_is_not
                abandoned_is_no_such_upload
                abandoned_twice_is_fine
                two_uploads_of_one_id_do_not_mix
                stale_finds_open_uploads_by_age
                stale_forgets_what_ended
                composite_is_that_of_the_parts
                refuses_reserved_ids
                refuses_tags_it_cannot_keep
            }
        }
    };
}
