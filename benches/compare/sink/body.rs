//! Bodies of uploads: counted, hashed as far as asked for, and forgotten.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// What is wanted of a body beside its length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) sha256: bool,
    pub(crate) md5: bool,
    /// Keep the bytes, up to so many.
    pub(crate) keep: usize,
    /// The body is in chunks with headers of their own (`aws-chunked`).
    pub(crate) chunked: bool,
}

/// What came.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) size: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) bytes: Option<Bytes>,
    /// A checksum that came behind the body.
    pub(crate) trailer: Option<(HeaderName, HeaderValue)>,
}

/// Reads a body to its end.
///
/// # Errors
/// When the connection breaks, or chunks make no sense.
pub(crate) async fn receive(mut body: Incoming, wanted: Wanted) -> Result<Received, String> {
    let mut state = State::new(wanted);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data() {
            state.feed(&data)?;
        }
    }
    state.finish()
}

struct State {
    wanted: Wanted,
    size: u64,
    sha256: Option<Sha256>,
    md5: Option<Md5>,
    bytes: Option<BytesMut>,
    chunks: Option<Chunks>,
}

impl State {
    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            size: 0,
            sha256: wanted.sha256.then(Sha256::new),
            md5: wanted.md5.then(Md5::new),
            bytes: (wanted.keep > 0).then(BytesMut::new),
            chunks: wanted.chunked.then(Chunks::default),
        }
    }

    fn feed(&mut self, data: &[u8]) -> Result<(), String> {
        let Some(mut chunks) = self.chunks.take() else {
            self.payload(data);
            return Ok(());
        };
        let result = chunks.feed(data, |payload| self.payload(payload));
        self.chunks = Some(chunks);
        result
    }

    fn payload(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(data);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(data);
        }
        if let Some(bytes) = &mut self.bytes {
            if bytes.len() + data.len() > self.wanted.keep {
                self.bytes = None;
            } else {
                bytes.extend_from_slice(data);
            }
        }
    }

    fn finish(self) -> Result<Received, String> {
        let trailer = match self.chunks {
            Some(chunks) => chunks.finish()?,
            None => None,
        };
        Ok(Received {
            size: self.size,
            sha256: self.sha256.map(|hasher| hasher.finalize().into()),
            md5: self.md5.map(|hasher| hasher.finalize().into()),
            bytes: self.bytes.map(BytesMut::freeze),
            trailer,
        })
    }
}

/// Decodes `aws-chunked`: `HEX[;chunk-signature=...]\r\n`, the bytes, `\r\n`, and again; behind the chunk of no
/// bytes come trailers. Signatures are not looked at.
#[derive(Default)]
struct Chunks {
    /// Bytes of the present chunk that have not come, with the line's end behind them.
    left: u64,
    line: Vec<u8>,
    /// The last chunk has come.
    trailers: bool,
    ended: bool,
    checksum: Option<(HeaderName, HeaderValue)>,
}

/// Longer lines are no chunk headers.
const LONGEST_LINE: usize = 8 << 10;

impl Chunks {
    fn feed(&mut self, mut data: &[u8], mut payload: impl FnMut(&[u8])) -> Result<(), String> {
        while !data.is_empty() {
            if self.left > 0 {
                // The last two bytes are the line's end.
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                let bytes = self.left.saturating_sub(2).min(take as u64) as usize;
                payload(&data[..bytes]);
                self.left -= take as u64;
                data = &data[take..];
                continue;
            }
            let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(data);
                if self.line.len() > LONGEST_LINE {
                    return Err("a chunk's header is too long".to_owned());
                }
                return Ok(());
            };
            self.line.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.line(String::from_utf8_lossy(&line).trim())?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if !self.trailers {
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| format!("no chunk size: {size:?}"))?;
            if size == 0 {
                self.trailers = true;
                self.ended = true;
            } else {
                self.left = size.checked_add(2).ok_or("a chunk is too long")?;
            }
            return Ok(());
        }
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.trim().as_bytes()), HeaderValue::from_str(value.trim()))
            && name.as_str().starts_with("x-amz-checksum-")
        {
            self.checksum = Some((name, value));
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<(HeaderName, HeaderValue)>, String> {
        if !self.ended {
            return Err("the last chunk did not come".to_owned());
        }
        Ok(self.checksum)
    }
}

/// A body that is answered: bytes at hand, or a range of a file that is read as it is sent.
pub(crate) enum Answer {
    Bytes(Option<Bytes>),
    File { file: std::fs::File, at: u64, left: u64, buffer: BytesMut },
}

/// What is read of a file at once.
const STEP: usize = 256 << 10;

impl Answer {
    pub(crate) fn file(file: std::fs::File, at: u64, left: u64) -> Self {
        Self::File { file, at, left, buffer: BytesMut::new() }
    }

    fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        match self {
            Self::Bytes(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok),
            Self::File { left: 0, .. } => None,
            Self::File { file, at, left, buffer } => {
                let step = usize::try_from(*left).unwrap_or(STEP).min(STEP);
                // What was sent is used again once the connection has let go of it.
                buffer.resize(step, 0);
                // From the page cache: no pool of threads is in between.
                if let Err(error) = std::os::unix::fs::FileExt::read_exact_at(file, buffer, *at) {
                    *left = 0;
                    return Some(Err(error));
                }
                *at += step as u64;
                *left -= step as u64;
                Some(Ok(buffer.split().freeze()))
            }
        }
    }
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(self.next().map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::File { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &[u8], step: usize) -> Result<Received, String> {
        let mut state = State::new(Wanted { chunked: true, keep: 1 << 20, sha256: true, md5: false });
        for piece in body.chunks(step) {
            state.feed(piece)?;
        }
        state.finish()
    }

    #[test]
    fn chunks_are_decoded_wherever_the_packets_end() {
        let body = b"5;chunk-signature=00ff\r\nhello\r\n1\r\n\n\r\n0;chunk-signature=00\r\n\
            x-amz-checksum-crc32:AAAAAA==\r\nx-amz-trailer-signature:00\r\n\r\n";
        for step in 1..=body.len() {
            let received = decode(body, step).unwrap();
            assert_eq!(received.bytes.unwrap(), "hello\n", "{step}");
            assert_eq!(received.size, 6);
            assert_eq!(received.sha256.unwrap(), <[u8; 32]>::from(Sha256::digest(b"hello\n")));
            assert_eq!(received.trailer.unwrap().1, "AAAAAA==");
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_no_body() {
        assert!(decode(b"5\r\nhel", 9).is_err());
        assert!(decode(b"5\r\nhello\r\n", 3).is_err());
        assert!(decode(b"hello\r\n", 7).is_err());
        assert!(decode(b"0\r\n\r\n", 1).is_ok());
    }
}
