//! What the tests stand on: real S3 servers, a proxy that damages connections, directories full of odd names,
//! disks that fill or lose their power, and processes that are killed at a chosen system call.
//!
//! Servers listen on 127.0.0.1, on free ports, keep their data in a fresh directory, and end with the test:
//! when their handle is dropped, and through the kernel when the test process is killed.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! // In a test: the server of `rig exec` where the tests run beneath it, else one of this process.
//! let Some(server) = test_rig::garage() else { return Ok(()) };
//! let key = format!("{}report.pdf", test_rig::unique_prefix());
//! # let _ = (server.endpoint, server.bucket, key);
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`endpoint`] | [`S3Endpoint`]: where a server is and who may talk to it |
//! | [`garage`](mod@garage), [`moto`](mod@moto) | the servers |
//! | [`shared`] | one server for many test processes |
//! | [`skip`] | tests that cannot run say so |
//! | [`tools`] | where the programs are |
//! | [`proxy`] | [`Proxy`]: resets, stalls, lost answers, flipped bits |
//! | [`meddler`] | [`Meddler`]: the same, and errors, for chosen requests |
//! | [`tree`] | [`Tree`]: odd names, links, fifos, sparse files, with a manifest |
//! | [`disk`] | [`Mount`](disk::Mount), [`Image`](disk::Image): file systems without room, attributes or power |
//! | [`strace`] | [`Strace`]: kill or fail a program at one system call |
//! | [`process`], [`scratch`], [`http`] | what these are made of |
#![expect(
    clippy::disallowed_methods,
    reason = "test support: what it writes and removes is its own scratch data"
)]

pub mod disk;
pub mod endpoint;
pub mod garage;
pub mod http;
pub mod meddler;
pub mod moto;
pub mod process;
pub mod proxy;
pub mod scratch;
pub mod shared;
pub mod skip;
pub mod strace;
pub mod tools;
pub mod tree;

pub use endpoint::{S3Endpoint, ServerKind};
pub use garage::Garage;
pub use meddler::{Asked, Fate, Meddler};
pub use moto::Moto;
pub use proxy::{Fault, Proxy, Way};
pub use shared::{garage, moto, unique_prefix};
pub use strace::Strace;
pub use tree::{Manifest, Tree};
