//! Garage, the S3 server of every day.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::endpoint::{Admin, S3Endpoint, ServerKind};
use crate::http;
use crate::process::{self, DeathSignal, Server};
use crate::scratch::Scratch;
use crate::tools;

/// Much more than the second it takes: the machine may be compiling.
const READY: Duration = Duration::from_secs(60);

const REGION: &str = "garage";
const BUCKET: &str = "rig";

/// Name of the file with the settings.
const CONFIG: &str = "garage.toml";

/// One node with one key, which may make buckets, and one bucket. Stopped when dropped.
#[derive(Debug)]
pub struct Garage {
    endpoint: S3Endpoint,
    // Before the directory: the server ends first.
    server: Server,
    scratch: Scratch,
}

impl Garage {
    /// Starts a server with fresh data.
    ///
    /// # Errors
    /// When the program is not installed or does not become ready; the message holds the end of its log.
    pub fn start() -> Result<Self> {
        process::with_fresh_ports(Self::start_on)
    }

    fn start_on([s3, rpc, admin]: [u16; 3]) -> Result<Self> {
        let scratch = Scratch::new("garage")?;
        let access_key = format!("GK{}", hex::encode(rand::random::<[u8; 12]>()));
        let secret_key = hex::encode(rand::random::<[u8; 32]>());
        let admin = Admin {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, admin)),
            token: hex::encode(rand::random::<[u8; 32]>()),
        };
        fs::write(scratch.join(CONFIG), configuration(&scratch, s3, rpc, &admin))?;

        let endpoint = S3Endpoint {
            endpoint: format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, s3))),
            access_key,
            secret_key,
            region: REGION.to_owned(),
            bucket: BUCKET.to_owned(),
            kind: ServerKind::Garage,
            admin: Some(admin),
        };
        let server = launch(&scratch, &endpoint)?;
        Ok(Self { endpoint, server, scratch })
    }

    /// Returns where it is.
    pub fn endpoint(&self) -> &S3Endpoint {
        &self.endpoint
    }

    /// Makes another bucket, which the same key may use.
    ///
    /// # Errors
    /// When the name is taken or no bucket name.
    pub fn create_bucket(&self, name: &str) -> Result<S3Endpoint> {
        self.endpoint.create_bucket(name)
    }

    /// Starts it again after it was [killed](Server::kill): at the same place, with the same data.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self) -> Result<()> {
        self.server = launch(&self.scratch, &self.endpoint)?;
        Ok(())
    }

    /// Returns the process, for tests that kill the server or read its log.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn launch(scratch: &Scratch, endpoint: &S3Endpoint) -> Result<Server> {
    let program = tools::find("garage")
        .with_context(|| format!("garage {} is not installed: tests/run does", tools::GARAGE_VERSION))?;
    // Credentials go through the environment: a process list shows arguments.
    let mut command = process::command(&program, DeathSignal::Kill);
    command.arg("-c").arg(scratch.join(CONFIG)).args(["server", "--single-node", "--default-bucket"]);
    command
        .env("GARAGE_DEFAULT_ACCESS_KEY", &endpoint.access_key)
        .env("GARAGE_DEFAULT_SECRET_KEY", &endpoint.secret_key)
        .env("GARAGE_DEFAULT_BUCKET", &endpoint.bucket)
        .env("RUST_LOG", "garage=info");
    let mut server = Server::start("garage", command, scratch.join("garage.log"))?;
    if let Some(admin) = &endpoint.admin {
        server.wait_until(READY, || http::answers_ok(admin.address, "/health"))?;
    }
    Ok(server)
}

/// SQLite because with LMDB a key over 479 bytes is answered with a 503 that looks worth a retry. Nothing is
/// synced: the data goes with the test.
fn configuration(scratch: &Scratch, s3: u16, rpc: u16, admin: &Admin) -> String {
    let rpc_secret = hex::encode(rand::random::<[u8; 32]>());
    format!(
        r#"metadata_dir = "{meta}"
data_dir = "{data}"
db_engine = "sqlite"
replication_factor = 1
metadata_fsync = false
data_fsync = false
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{rpc_secret}"

[s3_api]
s3_region = "{REGION}"
api_bind_addr = "127.0.0.1:{s3}"
root_domain = ".s3.garage.test"

[admin]
api_bind_addr = "{admin}"
admin_token = "{token}"
"#,
        meta = scratch.join("meta").display(),
        data = scratch.join("data").display(),
        admin = admin.address,
        token = admin.token,
    )
}
