//! A client of its own: signs as the documentation says, sends what it is told, right or wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3_server::{RunningServer, Server, ServerConfig};
use sha2::{Digest as _, Sha256};
use storage_core::backend::memory::MemoryStorage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const BUCKET: &str = "bucket";
pub(crate) const MIB: usize = 1 << 20;

pub(crate) async fn start(config: ServerConfig) -> RunningServer {
    Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn()
}

/// Serves an empty storage in memory, with credentials.
pub(crate) async fn memory() -> (RunningServer, MemoryStorage) {
    let storage = MemoryStorage::new();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(storage.clone())).with_random_credentials();
    (start(config).await, storage)
}

/// What is said of the body in `x-amz-content-sha256`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    Signed,
    Unsigned,
    /// Chunks without signatures and a trailer with this checksum.
    Trailer(&'static str, &'static str),
    /// The same, with the trailer announced and not sent.
    MissingTrailer(&'static str),
}

#[derive(Clone)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    query: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    payload: Payload,
    /// Sent instead of the signed body.
    tampered: Option<Vec<u8>>,
    announced: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the content of the first element of this name.
    pub(crate) fn element(&self, name: &str) -> Option<String> {
        self.elements(name).into_iter().next()
    }

    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        text.split(&open)
            .skip(1)
            .filter_map(|rest| rest.split_once(&close))
            .map(|(content, _)| content.replace("&quot;", "\"").replace("&amp;", "&"))
            .collect()
    }

    pub(crate) fn code(&self) -> String {
        self.element("Code").unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        self
    }

    pub(crate) fn etag(&self) -> String {
        self.headers["etag"].clone()
    }
}

impl Request {
    /// `key` is the key as it is; it is encoded here. Empty for the bucket.
    pub(crate) fn new(method: &'static str, key: &str) -> Self {
        let path =
            if key.is_empty() { format!("/{BUCKET}") } else { format!("/{BUCKET}/{}", encode(key, true)) };
        Self {
            method,
            path,
            query: Vec::new(),
            headers: BTreeMap::new(),
            body: Vec::new(),
            payload: Payload::Signed,
            tampered: None,
            announced: None,
        }
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    pub(crate) fn tampered(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.tampered = Some(body.into());
        self
    }

    /// Leaves it to the server to end the connection.
    pub(crate) fn keep_alive(self) -> Self {
        self.header("connection", "keep-alive")
    }

    /// Announces more bytes than are sent, then ends the connection's sending side.
    pub(crate) fn announced(mut self, length: usize) -> Self {
        self.announced = Some(length);
        self
    }

    pub(crate) async fn send(self, server: &RunningServer) -> Response {
        self.try_send(server, server.secret_key()).await.expect("an answer")
    }

    /// Signs in the headers and sends; nothing is returned when the connection ends before a whole answer.
    pub(crate) async fn try_send(mut self, server: &RunningServer, secret: &str) -> Option<Response> {
        let (date, time) = dates(SystemTime::now());
        let hash = match self.payload {
            Payload::Signed => hex::encode(Sha256::digest(&self.body)),
            Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            Payload::Trailer(name, _) | Payload::MissingTrailer(name) => {
                let length = self.body.len();
                let mut chunked = format!("{length:x}\r\n").into_bytes();
                chunked.extend_from_slice(&self.body);
                let end = if length > 0 { "\r\n0\r\n" } else { "\r\n" };
                chunked.extend_from_slice(end.as_bytes());
                if let Payload::Trailer(_, value) = self.payload {
                    chunked.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
                }
                chunked.extend_from_slice(b"\r\n");
                self.body = chunked;
                self.headers.insert("x-amz-decoded-content-length".into(), length.to_string());
                self.headers.insert("x-amz-trailer".into(), name.into());
                self.headers.insert("content-encoding".into(), "aws-chunked".into());
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned()
            }
        };
        self.headers.insert("host".into(), server.local_addr().to_string());
        self.headers.insert("x-amz-date".into(), time.clone());
        self.headers.insert("x-amz-content-sha256".into(), hash.clone());
        let signed = self.headers.keys().cloned().collect::<Vec<_>>().join(";");
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let query = self.canonical_query();
        let canonical = format!("{}\n{}\n{query}\n{headers}\n{signed}\n{hash}", self.method, self.path);
        let scope = format!("{date}/{}/s3/aws4_request", server.region());
        let signature = sign(secret, &date, server.region(), &time, &scope, &canonical);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            server.access_key()
        );
        self.headers.insert("authorization".into(), authorization);
        let target = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        let body = self.tampered.take().unwrap_or_else(|| std::mem::take(&mut self.body));
        exchange(server, self.method, &target, &self.headers, &body, self.announced).await
    }

    /// Sends without any signature.
    pub(crate) async fn anonymous(mut self, server: &RunningServer) -> Response {
        self.headers.insert("host".into(), server.local_addr().to_string());
        let query = self.canonical_query();
        let target = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        exchange(server, self.method, &target, &self.headers, &self.body, None).await.expect("an answer")
    }

    /// Returns the path and query that anyone may use until they expire.
    pub(crate) fn presign(mut self, server: &RunningServer, at: SystemTime, expires: Duration) -> String {
        let (date, time) = dates(at);
        let scope = format!("{date}/{}/s3/aws4_request", server.region());
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", server.access_key())),
            ("X-Amz-Date", time.clone()),
            ("X-Amz-Expires", expires.as_secs().to_string()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
        ] {
            self.query.push((name.to_owned(), value));
        }
        let query = self.canonical_query();
        let canonical = format!(
            "{}\n{}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            self.method,
            self.path,
            server.local_addr()
        );
        let signature = sign(server.secret_key(), &date, server.region(), &time, &scope, &canonical);
        format!("{}?{query}&X-Amz-Signature={signature}", self.path)
    }

    fn canonical_query(&self) -> String {
        let mut pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
            .collect();
        pairs.sort();
        pairs.join("&")
    }
}

/// Sends a request as it is and reads one answer.
pub(crate) async fn exchange(
    server: &RunningServer,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    announced: Option<usize>,
) -> Option<Response> {
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.contains_key("connection") {
        head.push_str("connection: close\r\n");
    }
    if !headers.contains_key("host") {
        head.push_str(&format!("host: {}\r\n", server.local_addr()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = announced.unwrap_or(body.len());
    if length > 0 || method == "PUT" || method == "POST" {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("\r\n");
    // A server that refuses early may close before everything was sent; its answer is read all the same.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    if announced.is_some() {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    parse(method, &answer)
}

fn parse(method: &str, answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = answer[end + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        body = unchunk(&body)?;
    } else if let Some(length) = headers.get("content-length").and_then(|value| value.parse::<usize>().ok())
        && method != "HEAD"
        && status != 304
        && body.len() != length
    {
        return None;
    }
    Some(Response { status, headers, body })
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?, 16).ok()?;
        body = body.get(end + 2..)?;
        if length == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(..length)?);
        body = body.get(length + 2..)?;
    }
}

fn encode(text: &str, path: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b'/' if path => "/".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn dates(at: SystemTime) -> (String, String) {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    // Howard Hinnant's civil_from_days.
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let of_era = days - era * 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = format!("{year:04}{month:02}{day:02}");
    let rest = seconds % 86_400;
    let time = format!("{date}T{:02}{:02}{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60);
    (date, time)
}

fn sign(secret: &str, date: &str, region: &str, time: &str, scope: &str, canonical: &str) -> String {
    let text =
        format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical.as_bytes())));
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), date.as_bytes());
    for part in [region, "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    hex::encode(hmac(&key, text.as_bytes()))
}

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}
