//! Kills at every step, and what the next run makes of them.
//!
//! Nothing that a run has said to be copied may be missing or wrong at the moment of its death, no name may ever show
//! a mixture, and the next run leaves the target whole, the ledger done and nothing else behind.

mod parts;
mod removal;
mod steps;
mod tap;
