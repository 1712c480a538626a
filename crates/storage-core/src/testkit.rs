//! Tests for storages and layers, to be run by whoever writes one: the [`conformance`] suite, one test per
//! promise of the waist, and a wrapper that fails on purpose, [`flaky`].

pub mod conformance;
pub mod flaky;
