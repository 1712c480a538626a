//! The migrator: moves files between any two storages, verified, resumable, reported.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and change files"))]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod failure;
pub mod item;
pub mod lanes;
pub mod ledger;
pub mod metrics;
pub mod plan;
pub mod progress;
pub mod quantity;
pub mod report;
pub mod scan;
pub mod throttle;
pub mod transfer;
pub mod verify;
pub mod web;
