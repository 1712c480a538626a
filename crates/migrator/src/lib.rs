//! The migrator: moves files between any two storages, verified, resumable, reported.

pub mod engine;
pub mod item;
pub mod ledger;
pub mod plan;
pub mod progress;
pub mod scan;
pub mod transfer;
pub mod verify;
