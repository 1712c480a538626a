//! What cannot be had for less: the same work without anything around it.

mod client;
pub(crate) mod put;
pub(crate) mod sums;
pub(crate) mod walk;
