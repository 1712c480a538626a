//! A proxy that reads HTTP and decides on every request what becomes of it.
//!
//! [`Proxy`](crate::Proxy) damages bytes at chosen places of a connection; here faults belong to requests: this
//! `PutObject` is answered with 503, the answer to that `CompleteMultipartUpload` is lost after it was carried out.
//! Each request has a connection of its own, so that the end of an answer needs no understanding.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt;

/// Longest head that is read, in bytes.
const HEAD: usize = 64 << 10;

/// How often a stalled request looks whether the proxy ends.
const TICK: Duration = Duration::from_millis(20);

/// A request as the decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Counted from 0, in the order in which requests came.
    pub number: usize,
    /// HTTP method.
    pub method: String,
    /// Path and query as sent, percent-encoded.
    pub target: String,
    /// `x-amz-copy-source` is among its headers.
    pub copies: bool,
}

impl Asked {
    /// Returns the name of the S3 operation, as far as method and target tell it; otherwise `Other`.
    pub fn operation(&self) -> &'static str {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let of_object = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
        match (self.method.as_str(), of_object) {
            ("PUT", true) if has("uploadId") => "UploadPart",
            ("PUT", true) if self.copies => "CopyObject",
            ("PUT", true) => "PutObject",
            ("GET", true) if has("uploadId") => "ListParts",
            ("GET", true) => "GetObject",
            ("HEAD", true) => "HeadObject",
            ("DELETE", true) if has("uploadId") => "AbortMultipartUpload",
            ("DELETE", true) => "DeleteObject",
            ("POST", true) if has("uploads") => "CreateMultipartUpload",
            ("POST", true) if has("uploadId") => "CompleteMultipartUpload",
            ("GET", false) if has("uploads") => "ListMultipartUploads",
            ("GET", false) => "ListObjects",
            _ => "Other",
        }
    }

    /// Tells whether the request is about what the program keeps for itself: no user's file.
    pub fn is_internal(&self) -> bool {
        self.target.contains(".storage")
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out.
    Pass,
    /// It is not carried out; this status with this S3 error code is answered.
    Refuse(u16, &'static str),
    /// It is carried out; this status with this S3 error code is answered instead. With 200 it is the error that hides
    /// behind a success.
    Lie(u16, &'static str),
    /// It is carried out, and the connection is reset before a byte of the answer.
    LoseAnswer,
    /// So many bytes of its body pass, then both sides are reset.
    CutRequest(usize),
    /// It is carried out; so many bytes of the answer pass, head included, then the connection is reset.
    CutAnswer(usize),
    /// Nothing is answered for so long, then the connection is reset.
    Stall(Duration),
    /// The lowest bit of one byte of its body is flipped: the byte at this place, counted round and round.
    FlipRequest(usize),
    /// The same of the answer's body.
    FlipAnswer(usize),
}

type Decide = dyn FnMut(&Asked) -> Fate + Send;

/// The proxy, on a free port of 127.0.0.1. Dropping it ends what stalls and takes no more connections.
pub struct Meddler {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    decide: Mutex<Box<Decide>>,
    log: Mutex<Vec<(Asked, Fate)>>,
    over: AtomicBool,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Meddler {
    /// Starts it before `upstream`; `decide` is asked about every request, one after the other.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(upstream: SocketAddr, decide: impl FnMut(&Asked) -> Fate + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            decide: Mutex::new(Box::new(decide)),
            log: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let acceptor = thread::Builder::new().name("rig-meddler".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming().map_while(io::Result::ok) {
                    if shared.over.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // What goes wrong on a connection ends that connection.
                    thread::spawn(move || drop(serve(&shared, client)));
                }
            }
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Decides otherwise from now on.
    pub fn set(&self, decide: impl FnMut(&Asked) -> Fate + Send + 'static) {
        *lock(&self.shared.decide) = Box::new(decide);
    }

    /// Returns the requests so far, each with what became of it.
    pub fn log(&self) -> Vec<(Asked, Fate)> {
        lock(&self.shared.log).clone()
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been printed.
            let _ = acceptor.join();
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some((head, mut body)) = read_head(&mut client)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&head).into_owned();
    let field = |name: &str| {
        let mut fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let copies = field("x-amz-copy-source").is_some();
    let fate = {
        let mut log = lock(&shared.log);
        let asked = Asked { number: log.len(), method: method.to_owned(), target: target.to_owned(), copies };
        let fate = (lock(&shared.decide))(&asked);
        log.push((asked, fate));
        fate
    };
    if let Fate::Stall(time) = fate {
        let until = Instant::now() + time;
        while Instant::now() < until && !shared.over.load(Ordering::SeqCst) {
            thread::sleep(TICK);
        }
        return reset(client);
    }
    if field("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length: usize = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let had = body.len().min(length);
    body.truncate(had);
    body.resize(length, 0);
    client.read_exact(&mut body[had..])?;
    if let Fate::Refuse(status, code) = fate {
        return answer(&mut client, status, code);
    }
    if let Fate::FlipRequest(at) = fate
        && length > 0
    {
        body[at % length] ^= 1;
    }
    // The server closes after its answer, whose end is then the end of the stream.
    let lines = text.trim_end().split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("expect")
    });
    let head = lines.collect::<Vec<_>>().join("\r\n") + "\r\nconnection: close\r\n\r\n";
    let mut server = TcpStream::connect(shared.upstream)?;
    server.set_nodelay(true)?;
    server.write_all(head.as_bytes())?;
    if let Fate::CutRequest(bytes) = fate {
        server.write_all(&body[..bytes.min(length)])?;
        reset(server)?;
        return reset(client);
    }
    server.write_all(&body)?;
    let mut answered = Vec::new();
    server.read_to_end(&mut answered)?;
    match fate {
        Fate::LoseAnswer => reset(client),
        Fate::Lie(status, code) => answer(&mut client, status, code),
        Fate::CutAnswer(bytes) => {
            client.write_all(&answered[..bytes.min(answered.len())])?;
            reset(client)
        }
        _ => {
            let start = answered.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            if let Fate::FlipAnswer(at) = fate
                && answered.len() > start
            {
                let place = start + at % (answered.len() - start);
                answered[place] ^= 1;
            }
            client.write_all(&answered)?;
            end(&client)
        }
    }
}

/// Reads up to the end of the head; what came of the body with it is the second half. Nothing where the client sent
/// nothing.
fn read_head(client: &mut TcpStream) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok(Some((read, body)));
        }
        let count = client.read(&mut piece)?;
        if count == 0 || read.len() > HEAD {
            return Ok(None);
        }
        read.extend_from_slice(&piece[..count]);
    }
}

fn answer(client: &mut TcpStream, status: u16, code: &str) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>made by a proxy</Message></Error>"
    );
    write!(
        client,
        "HTTP/1.1 {status} Meddled\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    end(client)
}

/// Ends in good order: what was never read would turn a close into a reset.
fn end(client: &TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut rest = [0; 1024];
    while matches!((&*client).read(&mut rest), Ok(1..)) {}
    Ok(())
}

fn reset(stream: TcpStream) -> io::Result<()> {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    /// Answers each request with its body.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(io::Result::ok) {
                let Ok(Some((head, mut body))) = read_head(&mut stream) else { continue };
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                while body.len() < length {
                    let mut piece = [0; 4096];
                    let Ok(count @ 1..) = stream.read(&mut piece) else { break };
                    body.extend_from_slice(&piece[..count]);
                }
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&body);
            }
        });
        address
    }

    #[test]
    fn each_fate_is_what_it_says() {
        let meddler = Meddler::start(echo(), |_| Fate::Pass).unwrap();
        let put = || http::request(meddler.address(), "PUT", "/bucket/key", &[], b"abcd");
        assert_eq!(put().unwrap().ok().unwrap(), b"abcd");
        for (fate, expected) in [(Fate::FlipRequest(4), b"`bcd"), (Fate::FlipAnswer(1), b"accd")] {
            meddler.set(move |_| fate);
            assert_eq!(put().unwrap().ok().unwrap(), expected, "{fate:?}");
        }
        for (fate, status) in [(Fate::Refuse(503, "SlowDown"), 503), (Fate::Lie(200, "InternalError"), 200)] {
            meddler.set(move |_| fate);
            let answer = put().unwrap();
            assert_eq!(answer.status, status);
            assert!(String::from_utf8_lossy(&answer.body).contains("made by a proxy"), "{fate:?}");
        }
        let short = Duration::from_millis(1);
        for fate in [Fate::LoseAnswer, Fate::CutRequest(2), Fate::CutAnswer(10), Fate::Stall(short)] {
            meddler.set(move |_| fate);
            assert!(put().is_err(), "{fate:?}");
        }
        let log = meddler.log();
        assert_eq!(
            (log.len(), log[0].0.operation(), log[3].1),
            (9, "PutObject", Fate::Refuse(503, "SlowDown"))
        );
    }

    #[test]
    fn operations_are_told_apart() {
        for (method, target, copies, operation) in [
            ("PUT", "/b/k?partNumber=1&uploadId=x", false, "UploadPart"),
            ("PUT", "/b/k", true, "CopyObject"),
            ("PUT", "/b/k?x-id=PutObject", false, "PutObject"),
            ("POST", "/b/k?uploads", false, "CreateMultipartUpload"),
            ("POST", "/b/k?uploadId=x", false, "CompleteMultipartUpload"),
            ("DELETE", "/b/k?uploadId=x", false, "AbortMultipartUpload"),
            ("DELETE", "/b/k", false, "DeleteObject"),
            ("GET", "/b?list-type=2", false, "ListObjects"),
            ("GET", "/b/?uploads", false, "ListMultipartUploads"),
        ] {
            let asked = Asked { number: 0, method: method.into(), target: target.into(), copies };
            assert_eq!(asked.operation(), operation, "{method} {target}");
        }
    }
}
