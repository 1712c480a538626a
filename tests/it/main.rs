//! The program from outside: real processes, real servers, real files.

#![allow(clippy::disallowed_methods, reason = "tests make and change files")]

mod audit;
mod behaviour;
mod daemon;
mod damage;
mod faults;
mod filters;
mod kills;
mod ledger;
mod names;
mod packaging;
mod power;
mod refusals;
mod rehearsal;
mod removal;
mod reports;
mod restore;
mod storing;
mod support;
mod traps;
