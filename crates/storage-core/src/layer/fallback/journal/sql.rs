//! The statements, each in its file. Parameters and columns go by name.

/// Migrations in order: the n-th leads to schema version n. One that was released is never edited.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../sql/0001_journal.sql"),
    include_str!("../sql/0002_clock.sql"),
    include_str!("../sql/0003_deleted.sql"),
];

macro_rules! statements {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) const $name: &str = include_str!(concat!("../sql/query/", $file, ".sql"));)*
    };
}

statements! {
    BIND = "bind";
    BINDING = "binding";
    CLOCK = "clock";
    DROP_INTENT = "drop_intent";
    ENTRIES = "entries";
    INTEND = "intend";
    INTENTS = "intents";
    KEEP_CLOCK = "keep_clock";
    PUT = "put";
    REMOVE = "remove";
}
