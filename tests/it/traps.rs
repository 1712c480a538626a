//! What has gone wrong for others while copying, each row once.

mod changing;
mod deletion;
mod odd;
mod outcomes;
mod requests;
mod roundtrip;
mod secrets;
mod signals;
mod unreadable;
