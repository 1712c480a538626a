//! The proxy does what its faults say, and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use test_rig::{Fault, Proxy, Way};

/// Answers each line with itself.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 64 << 10];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn without_a_fault_bytes_pass_unchanged_and_are_counted() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut reader, sent) = (stream.try_clone().unwrap(), bytes.clone());
    let writer = thread::spawn(move || stream.write_all(&sent).map(|()| stream));
    let mut answer = vec![0; bytes.len()];
    reader.read_exact(&mut answer).unwrap();
    assert!(answer == bytes);
    let stream = writer.join().unwrap().unwrap();

    // The end of the request reaches the server, and the end of the answer the client.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reader.read(&mut answer).unwrap(), 0);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.request_bytes, counts.answer_bytes), (1, 1_000_000, 1_000_000));
    assert_eq!(counts.faults, 0);
}

#[test]
fn refused_means_nobody_listens_and_the_port_stays_ours() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut open = connect(&proxy);
    assert_eq!(exchange(&mut open, b"one").unwrap(), b"one");
    for _ in 0..5 {
        proxy.set(Fault::Refuse);
        let error = TcpStream::connect(proxy.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        proxy.set(Fault::Pass);
        assert_eq!(exchange(&mut connect(&proxy), b"two").unwrap(), b"two");
    }
    let error = open.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "an open connection does not outlive it");
}

#[test]
fn a_reset_comes_after_exactly_so_many_bytes_and_as_often_as_asked() {
    let proxy = Proxy::start(echo()).unwrap();
    proxy.set_times(Fault::ResetAfter { way: Way::Request, bytes: 4 }, 1);
    let mut stream = connect(&proxy);
    stream.write_all(b"123456").unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.counts().request_bytes, 4);
    assert_eq!((proxy.fault(), proxy.counts().faults), (Fault::Pass, 1));
    assert_eq!(exchange(&mut connect(&proxy), b"123456").unwrap(), b"123456");
}

#[test]
fn a_fault_counts_from_when_it_was_set_on_a_connection_that_is_open() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, b"0123456789").unwrap(), b"0123456789");
    proxy.set_times(Fault::FlipBit { way: Way::Request, offset: 2 }, 1);
    assert_eq!(exchange(&mut stream, b"aaaa").unwrap(), b"aa`a");
    assert_eq!(exchange(&mut stream, b"aaaa").unwrap(), b"aaaa");
    proxy.set_times(Fault::FlipBit { way: Way::Answer, offset: 5 }, 1);
    assert_eq!(exchange(&mut stream, b"aaaa").unwrap(), b"aaaa");
    assert_eq!(exchange(&mut stream, b"aaaa").unwrap(), b"a`aa");
    assert_eq!(proxy.counts().faults, 2);
}

#[test]
fn an_answer_that_ends_early_ends_in_good_order() {
    let proxy = Proxy::start(echo()).unwrap();
    proxy.set(Fault::CloseAfter { way: Way::Answer, bytes: 3 });
    let mut stream = connect(&proxy);
    stream.write_all(b"123456").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"123");
}

#[test]
fn a_lost_answer_means_that_the_server_did_the_work() {
    let proxy = Proxy::start(echo()).unwrap();
    proxy.set_times(Fault::LoseAnswer, 1);
    let mut stream = connect(&proxy);
    let error = exchange(&mut stream, b"work").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let counts = proxy.counts();
    assert_eq!((counts.request_bytes, counts.answer_bytes, counts.faults), (4, 0, 1));

    // A client that waits for "100 Continue" would otherwise never send its body.
    proxy.set_times(Fault::LoseAnswer, 1);
    let mut stream = connect(&proxy);
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(exchange(&mut stream, interim).unwrap(), interim);
    assert!(exchange(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").is_err());
}

#[test]
fn what_was_stalled_arrives_when_the_stall_ends() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.set(Fault::Stall);
    stream.write_all(b"late").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(proxy.counts().request_bytes, 0);
    proxy.set(Fault::Pass);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");
}

#[test]
fn a_delayed_answer_is_whole() {
    let proxy = Proxy::start(echo()).unwrap();
    proxy.set(Fault::Delay(Duration::from_millis(150)));
    let start = std::time::Instant::now();
    assert_eq!(exchange(&mut connect(&proxy), b"slow").unwrap(), b"slow");
    assert!(start.elapsed() >= Duration::from_millis(150), "never earlier");
}

#[test]
fn dropping_the_proxy_ends_its_connections() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, b"x").unwrap(), b"x");
    let address = proxy.address();
    drop(proxy);
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_err());
}
