//! The server as its clients see it.
#![expect(clippy::disallowed_methods, reason = "tests write their trees plainly")]

mod api;
mod clients;
mod conformance;
mod faults;
mod support;
