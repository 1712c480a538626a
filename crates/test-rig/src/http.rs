//! As much HTTP as it takes to ask a server of our own for something. No TLS, no redirects, whole bodies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the status line.
    pub status: u16,
    /// Whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the body of an answer in the two hundreds.
    ///
    /// # Errors
    /// When the status is another one; the message holds the body.
    pub fn ok(self) -> Result<Vec<u8>> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(self.body)
    }
}

/// Sends one request. HTTP/1.0, so the answer ends with the connection and is never chunked.
///
/// # Errors
/// When the server cannot be reached or its answer is no HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).with_context(|| format!("{method} {path} at {address}"))
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer has no end of head")?;
    let head = std::str::from_utf8(&answer[..end]).context("the answer's head is not text")?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status in the answer")?;
    Ok(Answer { status, body: answer[end + 4..].to_vec() })
}

/// Sends a GET and tells whether the answer was 200.
pub fn answers_ok(address: SocketAddr, path: &str) -> bool {
    request(address, "GET", path, &[], b"").is_ok_and(|answer| answer.status == 200)
}
