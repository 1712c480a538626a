//! The daemon from outside: a real process, real signals, real HTTP.

mod api;
mod browser;
mod client;
mod dashboard;
mod guard;
mod hall;
mod runs;
mod scrape;
mod signals;
mod soak;
mod watch;
