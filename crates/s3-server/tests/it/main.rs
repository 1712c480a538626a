//! The server as its clients see it.

mod api;
mod clients;
mod conformance;
mod faults;
mod support;
