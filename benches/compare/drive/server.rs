//! The servers that a comparison runs against.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use test_rig::{Garage, S3Endpoint, http};

use super::measure;

/// The bucket that every comparison uses, where the server has them all.
pub(crate) const BUCKET: &str = "bench";

/// Requests since the last reset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) total: u64,
    pub(crate) heads: u64,
    pub(crate) lists: u64,
}

/// Number and size of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Sums {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

/// A server, ended when dropped.
pub(crate) enum Server {
    Sink { child: Child, endpoint: S3Endpoint },
    Garage { garage: Box<Garage>, endpoint: S3Endpoint, buckets: u32 },
}

impl Server {
    /// Starts a sink with the arguments of `compare sink`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) fn sink(arguments: &[&str], contents: Option<(&str, &Path)>) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("sink").args(arguments);
        if let Some((option, directory)) = contents {
            command.arg(option).arg(directory);
        }
        // It ends when this end of its input closes, whatever becomes of this process.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the sink has no output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        ensure!(address.starts_with("http://"), "the sink did not start");
        Ok(Self::Sink { child, endpoint: S3Endpoint::unchecked(address.trim(), BUCKET) })
    }

    /// Starts Garage.
    ///
    /// # Errors
    /// When it is not installed, or does not become ready.
    pub(crate) fn garage() -> Result<Self> {
        let garage = Box::new(Garage::start()?);
        let endpoint = garage.endpoint().clone();
        Ok(Self::Garage { garage, endpoint, buckets: 0 })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sink { .. } => "sink",
            Self::Garage { .. } => "Garage",
        }
    }

    pub(crate) fn endpoint(&self) -> &S3Endpoint {
        match self {
            Self::Sink { endpoint, .. } | Self::Garage { endpoint, .. } => endpoint,
        }
    }

    /// Returns the processor time that the server has used.
    pub(crate) fn cpu(&mut self) -> Duration {
        match self {
            Self::Sink { child, .. } => measure::cpu_of(child.id()),
            Self::Garage { garage, .. } => measure::cpu_of(garage.server().pid()),
        }
    }

    fn ask(&self, method: &str, path: &str) -> Result<Vec<u8>> {
        http::request(self.address(), method, path, &[], b"")?.ok()
    }

    fn address(&self) -> SocketAddr {
        self.endpoint().address()
    }

    /// Forgets all objects, or takes a bucket that has none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn empty(&mut self) -> Result<()> {
        match self {
            Self::Sink { .. } => drop(self.ask("POST", "/-/reset?objects")?),
            Self::Garage { garage, endpoint, buckets } => {
                *buckets += 1;
                *endpoint = garage.create_bucket(&format!("{BUCKET}-{buckets}"))?;
            }
        }
        Ok(())
    }

    /// Begins to count requests anew.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn reset_counts(&self) -> Result<()> {
        match self {
            Self::Sink { .. } => self.ask("POST", "/-/reset").map(drop),
            Self::Garage { .. } => Ok(()),
        }
    }

    /// Returns what was counted; nothing where nobody counts.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn requests(&self) -> Result<Option<Requests>> {
        if matches!(self, Self::Garage { .. }) {
            return Ok(None);
        }
        let counts: serde_json::Value = serde_json::from_slice(&self.ask("GET", "/-/counts")?)?;
        let of = |name: &str| counts["requests"][name].as_u64().unwrap_or(0);
        Ok(Some(Requests {
            total: counts["total"].as_u64().context("the sink counts nothing")?,
            heads: of("HeadObject"),
            lists: of("ListObjects"),
        }))
    }

    /// Returns what the bucket holds: by the sink's books, or by the server's listing.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn sums(&self) -> Result<Sums> {
        let text = match self {
            Self::Sink { .. } => self.ask("GET", &format!("/-/sums?prefix={BUCKET}/"))?,
            Self::Garage { endpoint, .. } => {
                let mut command = Command::new(env::current_exe()?);
                command.arg("sums").arg(bucket_url(endpoint)).envs(endpoint.env());
                let output = command.stderr(Stdio::inherit()).output()?;
                ensure!(output.status.success(), "the bucket cannot be listed");
                output.stdout
            }
        };
        Ok(serde_json::from_slice(&text)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Sink { child, .. } = self {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the bucket as the floors take it.
pub(crate) fn bucket_url(endpoint: &S3Endpoint) -> String {
    format!("{}/{}", endpoint.endpoint, endpoint.bucket)
}
