//! A proxy that counts requests: a killed run leaves no count of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A counting proxy. Its threads end with the connections.
pub(super) struct Tap {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Tap {
    /// Listens on a free port and connects to `upstream`.
    pub(super) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tap = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = Arc::clone(&tap.requests);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let requests = Arc::clone(&requests);
                thread::spawn(move || {
                    // Ends with whichever side goes first.
                    let _ = pass(&client, upstream, &requests);
                });
            }
        });
        tap
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests about files began so far whose `METHOD TARGET` holds for `which`.
    pub(super) fn count(&self, which: impl Fn(&str) -> bool) -> u64 {
        let requests = self.requests.lock().unwrap();
        let of_files = requests.iter().filter(|request| !request.contains("/.storage/"));
        of_files.filter(|request| which(request)).count() as u64
    }

    /// Returns how many parts were begun to be sent.
    pub(super) fn parts(&self) -> u64 {
        self.count(|request| request.starts_with("PUT ") && request.contains("partNumber="))
    }
}

fn pass(client: &TcpStream, upstream: SocketAddr, requests: &Mutex<Vec<String>>) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &server, &mut &*client);
            let _ = client.shutdown(Shutdown::Both);
        });
        let sent = pass_requests(client, &server, requests);
        let _ = server.shutdown(Shutdown::Both);
        sent
    })
}

/// Passes bytes on as they come, and notes the first line of each request.
fn pass_requests(mut client: &TcpStream, mut server: &TcpStream, to: &Mutex<Vec<String>>) -> io::Result<()> {
    let (mut head, mut body_left) = (Vec::new(), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            if body_left > 0 {
                let body = rest.len().min(body_left);
                (body_left, rest) = (body_left - body, &rest[body..]);
                continue;
            }
            let (byte, after) = rest.split_first().unwrap();
            head.push(*byte);
            rest = after;
            if head.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&head);
                let (line, fields) = text.split_once("\r\n").unwrap();
                let length = fields.lines().find_map(|field| {
                    let (name, value) = field.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
                });
                body_left = length.unwrap_or(0);
                to.lock().unwrap().push(line.trim_end_matches(" HTTP/1.1").to_owned());
                head.clear();
            }
        }
        server.write_all(&buffer[..count])?;
    }
}
