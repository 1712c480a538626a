//! A TCP proxy that damages connections on demand.
//!
//! Faults are those of real networks: nobody listens, the connection is reset, bytes stop coming, the answer is lost
//! after the server has done its work, a bit is flipped. They can be switched while connections are open, as clients
//! keep theirs alive.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// How often a thread that waits for bytes looks whether the fault has changed.
const TICK: Duration = Duration::from_millis(10);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Answer,
}

/// What the proxy does to connections. Bytes are counted per connection, from its beginning or from when the fault
/// was set, whichever came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// New connections are refused, open ones are reset.
    Refuse,
    /// Passes so many bytes that way, then resets both sides.
    ResetAfter {
        /// Whose bytes count.
        way: Way,
        /// How many pass.
        bytes: u64,
    },
    /// Passes so many bytes that way, then closes both sides in good order: an answer that ends early.
    CloseAfter {
        /// Whose bytes count.
        way: Way,
        /// How many pass.
        bytes: u64,
    },
    /// Accepts connections and keeps all bytes until another fault is set.
    Stall,
    /// Passes the request and, when the server begins to answer it, resets both sides: the work was done and the
    /// client does not know. An interim answer (`100 Continue`) passes.
    LoseAnswer,
    /// Holds each piece of an answer back for so long.
    Delay(Duration),
    /// Flips the lowest bit of one byte.
    FlipBit {
        /// Whose byte.
        way: Way,
        /// Counted from 0.
        offset: u64,
    },
}

/// What went through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted connections.
    pub connections: u64,
    /// Bytes passed to the server.
    pub request_bytes: u64,
    /// Bytes passed to clients.
    pub answer_bytes: u64,
    /// How often a reset, a close, a lost answer or a flipped bit happened.
    pub faults: u64,
}

/// A proxy on a free port of 127.0.0.1. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    control: Mutex<Control>,
    changed: Condvar,
    connections: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    faults: AtomicU64,
}

#[derive(Debug)]
struct Control {
    fault: Fault,
    /// How often the fault may still happen; `None`: always.
    left: Option<u32>,
    /// Grows with each change of the fault.
    epoch: u64,
    /// Grows with each [`Fault::Refuse`]: connections that are older than the last one are reset, even where the
    /// fault was taken back before they could see it.
    refusals: u64,
    listening: bool,
    stop: bool,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, control: MutexGuard<'a, Control>) -> MutexGuard<'a, Control> {
        self.changed.wait_timeout(control, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Takes one of the times that the fault of `epoch` may happen; `false` when there is none left.
    fn take(&self, epoch: u64) -> bool {
        let mut control = self.control();
        if control.epoch != epoch {
            return false;
        }
        if let Some(left) = &mut control.left {
            *left -= 1;
            if *left == 0 {
                control.fault = Fault::Pass;
                control.left = None;
                control.epoch += 1;
                self.changed.notify_all();
            }
        }
        self.faults.fetch_add(1, Ordering::SeqCst);
        true
    }
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, without a fault.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let reserved = Reserved::new().context("no free port on 127.0.0.1")?;
        let address = reserved.address;
        let listener = reserved.listen().context("cannot listen")?;
        let shared = Arc::new(Shared {
            upstream,
            control: Mutex::new(Control {
                fault: Fault::Pass,
                left: None,
                epoch: 0,
                refusals: 0,
                listening: true,
                stop: false,
            }),
            changed: Condvar::new(),
            connections: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let acceptor = thread::Builder::new().name("rig-proxy".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&shared, &reserved, listener)
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault, for open connections too, until another one is set. When it returns, the port is closed or
    /// open accordingly.
    pub fn set(&self, fault: Fault) {
        self.change(fault, None);
    }

    /// Sets a fault that happens so many times, over all connections, and then no more. Counted are resets, closes,
    /// lost answers and flipped bits.
    ///
    /// # Panics
    /// When `times` is 0, or for a fault that is a state and does not happen at a time ([`Fault::Pass`],
    /// [`Fault::Refuse`], [`Fault::Stall`], [`Fault::Delay`]).
    pub fn set_times(&self, fault: Fault, times: u32) {
        let state = matches!(fault, Fault::Pass | Fault::Refuse | Fault::Stall | Fault::Delay(_));
        assert!(times > 0 && !state, "{fault:?} cannot happen {times} times");
        self.change(fault, Some(times));
    }

    fn change(&self, fault: Fault, left: Option<u32>) {
        let mut control = self.shared.control();
        control.fault = fault;
        control.left = left;
        control.epoch += 1;
        self.shared.changed.notify_all();
        let open = fault != Fault::Refuse;
        control.refusals += u64::from(!open);
        while control.listening != open {
            // The acceptor may be waiting for a connection: here is one.
            if control.listening {
                drop(control);
                drop(TcpStream::connect_timeout(&self.address, TICK));
                control = self.shared.control();
            }
            if control.listening != open {
                control = self.shared.wait(control);
            }
        }
    }

    /// Returns the fault that is set: [`Fault::Pass`] once a fault with a number of times has happened that often.
    pub fn fault(&self) -> Fault {
        self.shared.control().fault
    }

    /// Returns what went through so far.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.shared.connections.load(Ordering::SeqCst),
            request_bytes: self.shared.request_bytes.load(Ordering::SeqCst),
            answer_bytes: self.shared.answer_bytes.load(Ordering::SeqCst),
            faults: self.shared.faults.load(Ordering::SeqCst),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.control().stop = true;
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            while !acceptor.is_finished() {
                drop(TcpStream::connect_timeout(&self.address, TICK));
                thread::sleep(Duration::from_millis(1));
            }
            // A panic there has been printed.
            let _ = acceptor.join();
        }
    }
}

/// A port that stays ours while nobody listens on it: a bound socket that never listens beside the one that does.
struct Reserved {
    address: SocketAddr,
    _holder: rustix::fd::OwnedFd,
}

impl Reserved {
    fn new() -> io::Result<Self> {
        let holder = reusable_socket()?;
        bind(&holder, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = rustix::net::getsockname(&holder)?;
        let address = SocketAddr::try_from(address).map_err(io::Error::from)?;
        Ok(Self { address, _holder: holder })
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = reusable_socket()?;
        bind(&socket, &self.address)?;
        listen(&socket, 1024)?;
        Ok(socket.into())
    }
}

fn reusable_socket() -> io::Result<rustix::fd::OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn accept(shared: &Arc<Shared>, reserved: &Reserved, listener: TcpListener) {
    let mut listener = Some(listener);
    loop {
        let mut control = shared.control();
        if control.stop {
            return;
        }
        if control.fault == Fault::Refuse {
            listener = None;
            control.listening = false;
            shared.changed.notify_all();
            drop(shared.wait(control));
            continue;
        }
        if listener.is_none() {
            listener = reserved.listen().ok();
            control.listening = listener.is_some();
            shared.changed.notify_all();
        }
        drop(control);
        let Some(listener) = &listener else { continue };
        let Ok((client, _)) = listener.accept() else { continue };
        let control = shared.control();
        if control.stop || control.fault == Fault::Refuse {
            continue;
        }
        let refusals = control.refusals;
        drop(control);
        shared.connections.fetch_add(1, Ordering::SeqCst);
        serve(shared, client, refusals);
    }
}

/// One connection through the proxy. A reset is sent only when a socket is closed that nobody else holds, so both
/// threads share one handle of each and none is cloned.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// At its beginning.
    refusals: u64,
    over: Mutex<Option<End>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    Close,
}

impl Pair {
    fn over(&self) -> Option<End> {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: End) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.over() == Some(End::Reset) {
            for socket in [&self.client, &self.server] {
                let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
            }
        }
    }
}

fn serve(shared: &Arc<Shared>, client: TcpStream, refusals: u64) {
    let Ok(server) = TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(5)) else {
        let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
        return;
    };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
        let _ = socket.set_read_timeout(Some(TICK));
        let _ = socket.set_write_timeout(Some(TICK));
    }
    let pair = Arc::new(Pair { client, server, refusals, over: Mutex::new(None) });
    for way in [Way::Request, Way::Answer] {
        let (shared, pair) = (Arc::clone(shared), Arc::clone(&pair));
        thread::spawn(move || Pump { shared: &shared, pair: &pair, way, epoch: 0, passed: 0 }.run());
    }
}

/// Moves the bytes of one way.
struct Pump<'a> {
    shared: &'a Shared,
    pair: &'a Pair,
    way: Way,
    /// The fault that `passed` is counted for.
    epoch: u64,
    passed: u64,
}

impl Pump<'_> {
    fn run(mut self) {
        let (mut from, to) = match self.way {
            Way::Request => (&self.pair.client, &self.pair.server),
            Way::Answer => (&self.pair.server, &self.pair.client),
        };
        self.epoch = self.shared.control().epoch;
        let mut buffer = vec![0; 64 << 10];
        loop {
            if !self.goes_on() {
                break;
            }
            match from.read(&mut buffer) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => {
                    if !self.pass(&mut buffer[..count], to) {
                        break;
                    }
                }
                Err(error) if waits(&error) => {}
                // The one side has reset the connection: so does the other.
                Err(_) => self.pair.end(End::Reset),
            }
        }
        if self.pair.over() == Some(End::Close) {
            // Bytes that were never read would turn the close into a reset.
            let _ = to.shutdown(Shutdown::Write);
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until && !self.shared.control().stop {
                match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if waits(&error) => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Tells whether the connection is to go on.
    fn goes_on(&self) -> bool {
        let control = self.shared.control();
        if control.stop || control.refusals != self.pair.refusals {
            self.pair.end(End::Reset);
        }
        drop(control);
        self.pair.over().is_none()
    }

    /// Returns the fault as it is now, once it is no stall; `None` when the connection ended meanwhile.
    fn fault(&mut self) -> Option<Fault> {
        loop {
            if !self.goes_on() {
                return None;
            }
            let control = self.shared.control();
            if control.epoch != self.epoch {
                self.epoch = control.epoch;
                self.passed = 0;
            }
            if control.fault != Fault::Stall {
                return Some(control.fault);
            }
            drop(self.shared.wait(control));
        }
    }

    /// Passes the piece on, with what the fault does to it; `false` when the connection is over.
    fn pass(&mut self, piece: &mut [u8], to: &TcpStream) -> bool {
        let Some(fault) = self.fault() else { return false };
        let epoch = self.epoch;
        match fault {
            Fault::ResetAfter { way, bytes } if way == self.way => {
                return self.pass_until(bytes, End::Reset, piece, to);
            }
            Fault::CloseAfter { way, bytes } if way == self.way => {
                return self.pass_until(bytes, End::Close, piece, to);
            }
            Fault::LoseAnswer if self.way == Way::Answer && !is_interim(piece) && self.shared.take(epoch) => {
                self.pair.end(End::Reset);
                return false;
            }
            Fault::Delay(time) if self.way == Way::Answer => {
                let until = Instant::now() + time;
                while let Some(left) = until.checked_duration_since(Instant::now()) {
                    if !self.goes_on() {
                        return false;
                    }
                    thread::sleep(left.min(TICK));
                }
            }
            Fault::FlipBit { way, offset } if way == self.way => {
                let at = offset.checked_sub(self.passed).and_then(|at| usize::try_from(at).ok());
                if let Some(byte) = at.and_then(|at| piece.get_mut(at))
                    && self.shared.take(epoch)
                {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
        self.write(piece, to)
    }

    fn pass_until(&mut self, limit: u64, how: End, piece: &[u8], to: &TcpStream) -> bool {
        let epoch = self.epoch;
        let room = usize::try_from(limit - self.passed.min(limit)).unwrap_or(usize::MAX);
        if piece.len() <= room || !self.write(&piece[..room], to) {
            return piece.len() <= room && self.write(piece, to);
        }
        if !self.shared.take(epoch) {
            return self.write(&piece[room..], to);
        }
        self.pair.end(how);
        false
    }

    fn write(&mut self, mut piece: &[u8], mut to: &TcpStream) -> bool {
        while !piece.is_empty() {
            if !self.goes_on() {
                return false;
            }
            match to.write(piece) {
                Ok(count) => {
                    piece = &piece[count..];
                    self.count(count);
                }
                Err(error) if waits(&error) => {}
                Err(_) => {
                    self.pair.end(End::Reset);
                    return false;
                }
            }
        }
        true
    }

    fn count(&mut self, count: usize) {
        let count = count as u64;
        self.passed += count;
        let total = match self.way {
            Way::Request => &self.shared.request_bytes,
            Way::Answer => &self.shared.answer_bytes,
        };
        total.fetch_add(count, Ordering::SeqCst);
    }
}

fn is_interim(piece: &[u8]) -> bool {
    piece.starts_with(b"HTTP/1.1 1")
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
