//! The statements, each in its file. Parameters and columns go by name.

/// Migrations in order: the n-th leads to schema version n. One that was released is never edited.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../sql/sqlite/0001_ledger.sql"),
    include_str!("../sql/sqlite/0002_audit.sql"),
    include_str!("../sql/sqlite/0003_sync.sql"),
    include_str!("../sql/sqlite/0004_capabilities.sql"),
    include_str!("../sql/sqlite/0005_retired.sql"),
];

macro_rules! statements {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) const $name: &str = include_str!(concat!("../sql/sqlite/query/", $file, ".sql"));)*

        /// All statements.
        #[cfg(test)]
        pub(super) const ALL: &[&str] = &[$($name),*];
    };
}

statements! {
    ARRIVED = "arrived";
    ATTEMPT = "attempt";
    ATTEMPTS = "attempts";
    BINDING = "binding";
    BINDING_INSERT = "binding_insert";
    CANDIDATES_CLEAR = "candidates_clear";
    CANDIDATES_PAGE = "candidates_page";
    CANDIDATE_ADD = "candidate_add";
    CONFIRMED = "confirmed";
    COURSE = "course";
    COURSE_NOTE = "course_note";
    DAMAGED = "damaged";
    FAILED = "failed";
    FILE = "file";
    FILES_PAGE = "files_page";
    GONE = "gone";
    HISTORY = "history";
    INTEND = "intend";
    JOURNAL = "journal";
    LEFT_UNDONE_PAGE = "left_undone_page";
    ORPHANS = "orphans";
    ORPHAN_FORGET = "orphan_forget";
    ORPHAN_UPLOAD = "orphan_upload";
    OUTCOMES_PAGE = "outcomes_page";
    OUTCOME_COUNTS = "outcome_counts";
    PARTS = "parts";
    PARTS_FORGET = "parts_forget";
    PART_STORED = "part_stored";
    PROOF = "proof";
    PROOF_NOTE = "proof_note";
    PUBLISHED = "published";
    REASON_COUNTS = "reason_counts";
    RETIRED = "retired";
    RETURNED = "returned";
    RUN = "run";
    RUNS = "runs";
    RUN_BEGIN = "run_begin";
    RUN_CHECKPOINT = "run_checkpoint";
    RUN_CLOSE_OPEN = "run_close_open";
    RUN_FINISH = "run_finish";
    RUN_IS_OPEN = "run_is_open";
    SOURCE_PLACE = "source_place";
    SOURCE_PLACE_SET = "source_place_set";
    STATE_COUNTS = "state_counts";
    TARGET_CAPABILITIES = "target_capabilities";
    TARGET_CAPABILITIES_SET = "target_capabilities_set";
    UNRECORDED = "unrecorded";
    UPLOAD_BEGUN = "upload_begun";
    UPLOAD_ENDED = "upload_ended";
}
