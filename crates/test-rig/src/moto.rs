//! moto, for what Garage has not: preconditions of a PUT, tags, versions. It believes every signature and every
//! checksum, so no test of either may run against it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::endpoint::{S3Endpoint, ServerKind};
use crate::http;
use crate::process::{self, DeathSignal, Server};
use crate::scratch::Scratch;
use crate::tools;

/// Python imports half of AWS first.
const READY: Duration = Duration::from_secs(120);

const BUCKET: &str = "rig";

/// A moto server with one bucket. All its data is in memory. Stopped when dropped.
#[derive(Debug)]
pub struct Moto {
    endpoint: S3Endpoint,
    server: Server,
    _scratch: Scratch,
}

impl Moto {
    /// Starts a server without data but for one empty bucket.
    ///
    /// # Errors
    /// When the program is not installed or does not become ready; the message holds the end of its log.
    pub fn start() -> Result<Self> {
        process::with_fresh_ports(Self::start_on)
    }

    fn start_on([port]: [u16; 1]) -> Result<Self> {
        let program = tools::find("moto_server").context("moto is not installed: tests/run does")?;
        let scratch = Scratch::new("moto")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = process::command(&program, DeathSignal::Kill);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut server = Server::start("moto_server", command, scratch.join("moto.log"))?;
        server.wait_until(READY, || http::answers_ok(address, "/moto-api/data.json"))?;
        let endpoint = S3Endpoint {
            endpoint: format!("http://{address}"),
            access_key: "rig".to_owned(),
            secret_key: hex::encode(rand::random::<[u8; 16]>()),
            region: "us-east-1".to_owned(),
            bucket: BUCKET.to_owned(),
            kind: ServerKind::Moto,
            admin: None,
        };
        endpoint.create_bucket(BUCKET).with_context(|| server.log_tail())?;
        Ok(Self { endpoint, server, _scratch: scratch })
    }

    /// Returns where it is.
    pub fn endpoint(&self) -> &S3Endpoint {
        &self.endpoint
    }

    /// Returns the process, for tests that kill the server or read its log.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}
