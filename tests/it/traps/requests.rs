//! What a run asks of the server, seen on the wire.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use test_rig::Tree;

use crate::support::{Desk, Remote, Report};

/// A relay that writes down the request lines that pass through it. Ends with the test process.
struct Wire {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Wire {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, lines) = (listener.local_addr().unwrap(), Arc::default());
        let seen = Arc::clone(&lines);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { return };
                let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let seen = Arc::clone(&seen);
                thread::spawn(move || relay(client, server, |bytes, rest| note(bytes, rest, &seen)));
                thread::spawn(move || relay(back, forth, |_, _| {}));
            }
        });
        Self { address, lines }
    }

    /// Returns the lines since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8], &mut Vec<u8>)) {
    let (mut buffer, mut rest) = (vec![0; 64 << 10], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&buffer[..count], &mut rest);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Finds request lines; no body of these tests holds anything like one.
fn note(bytes: &[u8], rest: &mut Vec<u8>, seen: &Mutex<Vec<String>>) {
    rest.extend_from_slice(bytes);
    let mut start = 0;
    while let Some(end) = rest[start..].windows(2).position(|pair| pair == b"\r\n") {
        let line = String::from_utf8_lossy(&rest[start..start + end]);
        if let Some(request) = line.strip_suffix(" HTTP/1.1") {
            // A body has no line break at its end.
            let begin = ["GET /", "PUT /", "POST /", "HEAD /", "DELETE /"]
                .iter()
                .filter_map(|method| request.rfind(method))
                .max();
            if let Some(begin) = begin {
                seen.lock().unwrap().push(request[begin..].to_owned());
            }
        }
        start += end + 2;
    }
    rest.drain(..start);
}

/// A second run that lists the bucket, or asks about each file, costs hours and money for a tree that has not changed.
#[test]
fn a_run_over_an_unchanged_tree_asks_nothing_about_its_files() {
    let Some(remote) = Remote::garage() else { return };
    let wire = Wire::to(remote.endpoint.address());
    let mut asked = BTreeMap::new();
    for files in [3_u32, 300] {
        let remote = Remote { endpoint: remote.endpoint.clone(), prefix: test_rig::unique_prefix() };
        let desk = Desk::new();
        Tree::new(desk.path("source"), 1).unwrap().many("file", files, 20).unwrap();
        let copy = desk
            .migrator(["copy", "source", &remote.url(), "--report", "report"])
            .at(&remote.endpoint.via(wire.address));
        copy.clone().run().exits(0);
        assert_eq!(Report::read(&desk.path("report")).sum("copied"), u64::from(files));
        let first = wire.take();
        let puts = first.iter().filter(|line| line.starts_with("PUT ") && line.contains("/file/")).count();
        assert_eq!(puts, files as usize, "one PUT per small file");
        let reads = first.iter().filter(|line| line.contains("/file/") && !line.starts_with("PUT ")).count();
        assert_eq!(reads, 0, "a server that checks what it is sent needs no reading back");

        copy.clone().run().exits(0);
        assert_eq!(Report::read(&desk.path("report")).sum("unchanged"), u64::from(files));
        let second = wire.take();
        assert!(second.is_empty(), "{second:#?}");

        // What was remembered of the server is asked again before the first file is sent.
        std::fs::write(desk.path("source/new"), "new").unwrap();
        copy.run().exits(0);
        assert_eq!(Report::read(&desk.path("report")).sum("copied"), 1);
        let third = wire.take();
        let put = third.iter().position(|line| line.starts_with("PUT ") && line.contains("/new"));
        let asked_first = third.iter().take(put.unwrap()).filter(|line| line.contains(".storage/probe/"));
        assert!(asked_first.count() > 10, "{third:#?}");
        asked.insert(files, third);
    }
    assert_eq!(asked[&3].len(), asked[&300].len(), "{asked:#?}");
}
