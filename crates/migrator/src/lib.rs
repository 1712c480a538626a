//! The migrator: moves files between any two storages, verified, resumable, reported.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and change files"))]

pub mod cli;
pub mod collide;
pub mod config;
pub mod course;
pub mod daemon;
pub mod engine;
pub mod failure;
pub mod filter;
pub mod item;
pub mod lanes;
pub mod ledger;
pub mod metrics;
pub mod order;
pub mod plan;
pub mod preserve;
pub mod progress;
pub mod quantity;
pub mod quarantine;
pub mod report;
pub mod retire;
pub mod rules;
pub mod safeguard;
pub mod scan;
pub mod subset;
pub mod throttle;
pub mod transfer;
pub mod verify;
pub mod web;
