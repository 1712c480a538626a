//! What cannot be had for less: the same work without anything around it.

pub(crate) mod put;
pub(crate) mod walk;
