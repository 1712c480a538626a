//! `migrator daemon`: composes jobs, scheduler and web server, and listens to signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::signals;
use crate::config::Config;
use crate::daemon::{Daemon, JobSpec, schedule, systemd};
use crate::failure::{Exit, Failure};
use crate::metrics::{self, Exporter};
use crate::quantity::show_count;
use crate::web::gate::Gate;
use crate::web::{self, Site};

mod token;
mod work;

/// How often what was recorded is moved to where it is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long open connections may take once all runs have ended.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct ListeningBody {
    address: SocketAddr,
    jobs: usize,
}

/// Runs jobs as they are due, until it is told to stop.
///
/// # Errors
/// The configuration is wrong, or the address cannot be listened at.
pub(super) async fn run(context: &Context, args: &args::Daemon) -> Result<Exit, Failure> {
    let loaded = load(context, args)?;
    if args.check {
        let count = u64::try_from(loaded.specs.len()).unwrap_or(u64::MAX);
        work::absent_sources(context).iter().for_each(|line| context.output.note(line));
        context.output.text(&format!("the configuration is right: {}\n", show_count(count, "job")));
        return Ok(Exit::Ok);
    }
    let stop = CancellationToken::new();
    signals::listen(stop.clone(), context.output.clone())?;
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::internal(format!("cannot listen to signals: {error}")))?;
    let exporter =
        Exporter::install().map_err(|error| Failure::internal(format!("cannot record metrics: {error}")))?;
    let listener = TcpListener::bind(loaded.listen).await.map_err(|error| {
        Failure::new(Exit::Config, format!("cannot listen at {}: {error}", loaded.listen))
            .with_hint("another daemon may be there; name another address with --listen or `listen`")
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::internal(format!("the listening address is not known: {error}")))?;
    let gate = Arc::new(Gate::new(address.port(), loaded.hosts, loaded.remote, loaded.token));
    let jobs = loaded.specs.len();
    let daemon = Daemon::new(loaded.specs, loaded.zone, machine_seed(), stop.clone());
    let closing = CancellationToken::new();
    let site = Site::new(daemon.clone(), exporter.clone(), Arc::clone(&gate), closing.clone());
    let served = tokio::spawn(web::serve(site, listener));
    let alive = tokio::spawn(systemd::keep_alive(daemon.clone()));
    let upkeep = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            exporter.upkeep();
        }
    });

    context.output.text(&format!("dashboard: http://{address}/\n"));
    context.output.event("listening", &ListeningBody { address, jobs });
    systemd::ready(&format!("dashboard at http://{address}/"));
    let reload = Reload {
        context: context.clone(),
        listen: args.listen,
        allow_remote: args.allow_remote,
        daemon: daemon.clone(),
        gate,
        address,
        bound: loaded.listen,
    };
    let reloading = tokio::spawn(async move {
        loop {
            hangup.recv().await;
            reload.tell();
        }
    });
    // Both come to their ends: an idle daemon is done before anybody else has looked.
    tokio::join!(daemon.run(), async {
        stop.cancelled().await;
        systemd::stopping();
    });
    closing.cancel();
    drop(tokio::time::timeout(LAST_ANSWERS, served).await);
    for task in [alive, upkeep, reloading] {
        task.abort();
    }
    context.output.note("stopped");
    Ok(Exit::Ok)
}

/// What a configuration comes to.
struct Loaded {
    specs: Vec<JobSpec>,
    zone: jiff::tz::TimeZone,
    listen: SocketAddr,
    hosts: Vec<String>,
    remote: bool,
    token: Option<web::gate::Token>,
}

fn load(context: &Context, args: &args::Daemon) -> Result<Loaded, Failure> {
    let settings = &context.config.daemon;
    if context.config.path.is_none() {
        return Err(Failure::new(Exit::Config, "the daemon has no configuration file").with_hint(
            "name one with --config FILE, or write ~/.config/migrator/config.toml or /etc/migrator/config.toml",
        ));
    }
    if context.config.jobs.is_empty() {
        return Err(Failure::new(Exit::Config, "the configuration file has no job")
            .with_hint("write a section [job.NAME] with source, target, mode and schedule"));
    }
    let listen = args.listen.unwrap_or(settings.listen);
    let allowed = args.allow_remote || settings.allow_remote;
    let remote = !listen.ip().is_loopback();
    let token = token::find(&context.env, settings.token_file.as_deref())?;
    if remote && !allowed {
        return Err(Failure::new(Exit::Refused, format!("{listen} can be reached from other machines"))
            .with_hint("listen at 127.0.0.1 behind a proxy, or say --allow-remote (allow_remote = true)"));
    }
    if remote && token.is_none() {
        return Err(Failure::new(
            Exit::Refused,
            format!("{listen} can be reached from other machines, and there is no token"),
        )
        .with_hint(
            "write a long random text into a file that only this user can read, and name it as token_file",
        ));
    }
    let zone = schedule::zone(settings.timezone.as_deref())
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let specs = work::specs(context)?;
    Ok(Loaded { specs, zone, listen, hosts: settings.hosts.clone(), remote, token })
}

struct Reload {
    context: Context,
    listen: Option<SocketAddr>,
    allow_remote: bool,
    daemon: Daemon,
    gate: Arc<Gate>,
    address: SocketAddr,
    bound: SocketAddr,
}

impl Reload {
    /// Takes the configuration as it is now, or says why not.
    fn tell(&self) {
        let output = &self.context.output;
        systemd::reloading();
        let read = self.once();
        metrics::config_reloaded(read.is_ok());
        let status = match read {
            Ok(jobs) => {
                output.note(&format!("the configuration was read again: {}", show_count(jobs, "job")));
                format!("dashboard at http://{}/", self.address)
            }
            Err(failure) => {
                output.note("the configuration was not read again; the former one stays");
                output.failure(&failure);
                "the configuration is wrong, the former one stays; see the log".to_owned()
            }
        };
        systemd::ready(&status);
    }

    /// Takes the configuration as it is now, or nothing of it.
    fn once(&self) -> Result<u64, Failure> {
        let mut context = self.context.clone();
        let named = context.config.path.clone();
        context.config = Config::find(named.as_deref(), &context.env)?;
        let args = args::Daemon { listen: self.listen, allow_remote: self.allow_remote, check: false };
        let loaded = load(&context, &args)?;
        if loaded.listen != self.bound {
            self.context.output.note(&format!(
                "the daemon still listens at {}: another address needs a restart",
                self.address
            ));
        }
        let jobs = u64::try_from(loaded.specs.len()).unwrap_or(u64::MAX);
        self.gate.replace(loaded.hosts, loaded.token);
        self.daemon.replace(loaded.specs, loaded.zone);
        Ok(jobs)
    }
}

/// Tells this machine's jitter from others'; the same after a restart.
fn machine_seed() -> u64 {
    let name = rustix::system::uname().nodename().to_bytes().to_vec();
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
