//! The server as its clients see it.
#![expect(clippy::disallowed_methods, reason = "tests write their trees plainly")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod api;
mod clients;
mod conformance;
mod faults;
mod support;
