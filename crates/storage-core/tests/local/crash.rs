//! What is left of a storage whose process or machine ends at any moment, or whose disk fails.
//!
//! A child process works on a root and says what it is about to do, and what was acknowledged ([`lines`]). The
//! parent ends it, opens the storage again, and compares what is there with what the lines allow ([`model`]).

mod errors;
mod heavy;
mod kills;
mod lines;
mod model;
mod session;
mod writer;
