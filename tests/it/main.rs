//! The program from outside: real processes, real servers, real files.

#![allow(clippy::disallowed_methods, reason = "tests make and change files")]

mod audit;
mod daemon;
mod damage;
mod filters;
mod kills;
mod names;
mod refusals;
mod removal;
mod reports;
mod restore;
mod support;
mod traps;
