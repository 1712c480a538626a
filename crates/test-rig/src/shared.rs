//! One server for many tests.
//!
//! The test runner gives each test its own process, and a server takes a second or more to start. `rig exec`
//! therefore starts them once and tells the tests where they are. Without it, a process starts its own.
//!
//! A shared server is no place to look at "all objects": each test keeps to its own [`unique_prefix`] or makes its
//! own bucket.

use std::sync::OnceLock;

use anyhow::Result;

use crate::endpoint::{S3Endpoint, ServerKind};
use crate::garage::Garage;
use crate::moto::Moto;
use crate::{skip, tools};

/// The variables that name the Garage of `rig exec` begin with this.
pub const GARAGE: &str = "RIG_GARAGE";

/// The variables that name the moto of `rig exec` begin with this.
pub const MOTO: &str = "RIG_MOTO";

/// Returns a Garage; nothing, and the test is reported as skipped, where it is not installed.
///
/// # Panics
/// When it is installed and does not start, or when it is missing although all tests must run
/// ([`skip::REQUIRED`]).
pub fn garage() -> Option<S3Endpoint> {
    static OWN: OnceLock<Result<Garage>> = OnceLock::new();
    let shared = S3Endpoint::from_env(GARAGE, ServerKind::Garage);
    find(shared, "garage", &format!("garage {}", tools::GARAGE_VERSION), || {
        OWN.get_or_init(Garage::start).as_ref().map(Garage::endpoint)
    })
}

/// Returns a moto, with a bucket of this process; nothing, and the test is reported as skipped, where it is not
/// installed.
///
/// A listing beside somebody who writes to the same bucket is answered with 500 now and then: moto walks a
/// dictionary of Python that grows under it. So no two tests share a bucket here.
///
/// # Panics
/// As [`garage`].
pub fn moto() -> Option<S3Endpoint> {
    static OWN: OnceLock<Result<Moto>> = OnceLock::new();
    static BUCKET: OnceLock<String> = OnceLock::new();
    let shared = S3Endpoint::from_env(MOTO, ServerKind::Moto);
    let server = find(shared, "moto_server", "moto[server]", || {
        OWN.get_or_init(Moto::start).as_ref().map(Moto::endpoint)
    })?;
    let bucket = BUCKET.get_or_init(|| {
        let name = unique_prefix().trim_end_matches('/').to_owned();
        server.create_bucket(&name).unwrap_or_else(|error| panic!("{error:#}"));
        name
    });
    Some(S3Endpoint { bucket: bucket.clone(), ..server })
}

fn find<'a>(
    shared: Result<Option<S3Endpoint>>,
    program: &str,
    what: &str,
    own: impl FnOnce() -> Result<&'a S3Endpoint, &'a anyhow::Error>,
) -> Option<S3Endpoint> {
    if let Some(endpoint) = shared.unwrap_or_else(|error| panic!("{error:#}")) {
        return Some(endpoint);
    }
    if tools::find(program).is_none() {
        skip::missing(what);
        return None;
    }
    Some(own().unwrap_or_else(|error| panic!("{error:#}")).clone())
}

/// Returns a prefix for keys that no other test has: `t-` with twelve hex digits, and a `/`.
pub fn unique_prefix() -> String {
    format!("t-{}/", hex::encode(rand::random::<[u8; 6]>()))
}
