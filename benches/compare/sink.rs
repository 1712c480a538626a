//! An S3 server that keeps nothing but facts, so that what is measured is the client.
//!
//! One current-thread runtime per core; connections are dealt out in turn, since with `SO_REUSEPORT` the kernel's hash
//! gives one core six of eight connections as often as not. Bodies are counted and forgotten. **Signatures are not
//! checked**, every bucket exists, and there are no versions, tags, copies and permissions: it is a rig, and listens on
//! 127.0.0.1 alone.
//!
//! | path | answers |
//! |---|---|
//! | `GET /-/counts` | requests by operation, payload bytes in and out, as JSON |
//! | `GET /-/sums?prefix=BUCKET/PREFIX` | count and bytes of the objects there, as JSON |
//! | `POST /-/reset` | nothing: counts are zero from now on; with `?objects` nothing is stored either |

mod body;
mod control;
mod requests;
mod serve;
mod store;
mod upload;
mod xml;

use std::convert::Infallible;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use self::control::Counts;
use self::store::Store;
pub(crate) use self::xml::elements;

/// What the sink does beyond counting.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Port of 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Whose SHA-256 is compared with the bytes, where a request has one
    ///
    /// The migrator believes a server that refuses wrong canaries. The sink shares the machine with the client:
    /// what a server of its own would compute elsewhere is left out of figures by default.
    #[arg(long, value_enum, default_value_t = Check::Canaries, num_args = 0..=1, default_missing_value = "all")]
    check_sha256: Check,
    /// ETags are MD5, as rclone expects of unencrypted Amazon S3
    #[arg(long)]
    md5_etags: bool,
    /// Keep the bytes of objects up to this size; canaries are kept always
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    keep: usize,
    /// Where the bytes of an object are read whose upload was forgotten: DIR/KEY
    #[arg(long, value_name = "DIR")]
    contents: Option<PathBuf>,
    /// Have the files of DIR as objects from the start, hashed once, and their bytes as with --contents
    #[arg(long, value_name = "DIR", conflicts_with = "contents")]
    serve: Option<PathBuf>,
    /// Objects of --serve have the time of their file where rclone looks for it
    #[arg(long, requires = "serve")]
    mtimes: bool,
    /// The bucket of --serve
    #[arg(long, value_name = "NAME", default_value = "bench")]
    bucket: String,
    /// Threads, each with a runtime of its own [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Go on when standard input closes
    #[arg(long)]
    stay: bool,
}

/// Which bodies are compared with their SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// None.
    None,
    /// Those beneath `.storage/`, by which the migrator finds out whether a server compares.
    Canaries,
    /// All.
    All,
}

/// The server's state.
pub(crate) struct Sink {
    check: Check,
    md5_etags: bool,
    keep: usize,
    contents: Option<PathBuf>,
    store: Store,
    counts: Counts,
}

/// Serves until SIGTERM, SIGINT, or the end of standard input.
///
/// The first line of standard output is the address.
///
/// # Errors
/// When the port is taken, or a file of `--serve` cannot be read.
pub(crate) fn run(options: Options) -> Result<()> {
    let sink = Arc::new(Sink {
        check: options.check_sha256,
        md5_etags: options.md5_etags,
        keep: options.keep,
        contents: options.serve.clone().or(options.contents),
        store: Store::default(),
        counts: Counts::default(),
    });
    if let Some(directory) = &options.serve {
        serve::register(&sink, directory, &options.bucket, options.mtimes)?;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers: Vec<_> =
        (0..options.threads.unwrap_or(cores).max(1)).map(|_| worker(&sink)).collect::<Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(options.port, &workers, options.stay))
}

/// Starts a thread that serves the connections it is given.
fn worker(sink: &Arc<Sink>) -> Result<mpsc::UnboundedSender<std::net::TcpStream>> {
    let (sender, mut connections) = mpsc::unbounded_channel();
    let sink = Arc::clone(sink);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        runtime.block_on(async move {
            while let Some(connection) = connections.recv().await {
                if let Ok(connection) = TcpStream::from_std(connection) {
                    tokio::spawn(serve_connection(Arc::clone(&sink), connection));
                }
            }
        });
    };
    thread::Builder::new().name("sink".to_owned()).spawn(serve)?;
    Ok(sender)
}

async fn serve_connection(sink: Arc<Sink>, connection: TcpStream) {
    let service = service_fn(move |request| {
        let sink = Arc::clone(&sink);
        async move { Ok::<_, Infallible>(sink.answer(request).await) }
    });
    // A client that goes away in the midst of a request is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(connection), service)
        .await;
}

async fn accept(port: u16, workers: &[mpsc::UnboundedSender<std::net::TcpStream>], stay: bool) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
        .with_context(|| format!("cannot listen on port {port} of 127.0.0.1: choose another with --port"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut closed = (!stay).then(end_of_input);
    crate::say(format_args!("http://{}", listener.local_addr()?));
    let mut turn = workers.iter().cycle();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors: the client sees a connection that is closed.
                let Ok((connection, _)) = accepted else { continue };
                connection.set_nodelay(true)?;
                if let (Ok(connection), Some(worker)) = (connection.into_std(), turn.next()) {
                    let _ = worker.send(connection);
                }
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = async {
                match &mut closed {
                    Some(closed) => drop(closed.await),
                    None => std::future::pending().await,
                }
            } => return Ok(()),
        }
    }
}

/// Returns what is ready once standard input has ended. On a thread of its own, which nobody waits for.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 256];
        while input.read(&mut buffer).is_ok_and(|read| read > 0) {}
        drop(sender);
    });
    receiver
}
