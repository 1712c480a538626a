//! The SDK is the reference: whatever is sent here must be what it sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::backend::s3::S3Config;
use crate::backend::s3::carrier::Sdk;
use crate::backend::s3::encryption::{Encryption, Storing};
use crate::backend::s3::object::Headers;
use crate::checksum::Digest;
use crate::error::{Effect, ErrorKind, Op};
use crate::metadata::Version;
use crate::storage::{PartNumber, Precondition};

/// What differs by nature: who sent it, when, and what follows from both.
const OWN: [&str; 6] = [
    "user-agent",
    "x-amz-user-agent",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "x-amz-date",
];

/// A request as it came: its first line, its headers, its body.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Seen {
    /// Takes out what differs by nature, and returns the credential scope and the names of the signed headers.
    fn without_own(mut self) -> (Self, String, Vec<String>) {
        let authorization = self.headers["authorization"].clone();
        let field = |name: &str| {
            let rest = authorization.split(name).nth(1).unwrap();
            rest.split(',').next().unwrap().trim().to_owned()
        };
        let signed = field("SignedHeaders=");
        let signed = signed.split(';').filter(|name| !OWN[..4].contains(name)).map(str::to_owned).collect();
        let scope = field("Credential=");
        self.headers.retain(|name, _| !OWN.contains(&name.as_str()));
        (self, scope, signed)
    }
}

/// Answers every request with `answer`, and hands the request over.
async fn server(answer: &'static str) -> (String, tokio::sync::mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    let end = loop {
                        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                            break at + 4;
                        }
                        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                    };
                    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                    let mut lines = head.trim_end().split("\r\n");
                    let line = lines.next().unwrap().to_owned();
                    let headers: BTreeMap<_, _> = lines
                        .map(|line| line.split_once(": ").unwrap())
                        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                        .collect();
                    let length =
                        headers.get("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
                    while bytes.len() < end + length {
                        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
                    }
                    let body = bytes[end..end + length].to_vec();
                    bytes.drain(..end + length);
                    let _ = sender.send(Seen { line, headers, body });
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, receiver)
}

const DONE: &str = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\
    x-amz-server-side-encryption: aws:kms\r\n\
    x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:1\r\n\
    x-amz-server-side-encryption-customer-key-MD5: bWQ1\r\n\r\n";

async fn carriers(endpoint: &str) -> (Sdk, Direct) {
    let config = S3Config::new("bucket")
        .with_endpoint(endpoint)
        .with_region("eu-north-1")
        .with_static_credentials("AKIDEXAMPLE", "wJalrXUtnFEMI");
    let clients = Arc::new(Clients::build(&config).await);
    let direct = Direct::find(&clients, "bucket").await.unwrap();
    (Sdk { clients, bucket: "bucket".to_owned() }, direct)
}

fn headers(metadata: &[(&str, &str)], tagging: Option<&str>) -> Headers {
    Headers {
        content_type: "text/plain; charset=utf-8".to_owned(),
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        tagging: tagging.map(str::to_owned),
        storing: Arc::default(),
    }
}

fn stored(mut headers: Headers, class: Option<&str>, encryption: Encryption) -> Headers {
    headers.storing = Arc::new(Storing { class: class.map(str::to_owned), encryption });
    headers
}

#[tokio::test]
async fn what_is_sent_is_what_the_sdk_sends() {
    let (endpoint, mut seen) = server(DONE).await;
    let (sdk, direct) = carriers(&endpoint).await;
    let plain = headers(&[], None);
    let full =
        headers(&[("name", "caf%C3%A9 a%20b"), ("sha256", "00ff"), ("tag-a.b", "x=y")], Some("k=v&a%20b=c"));
    let archived = stored(headers(&[], None), Some("GLACIER_IR"), Encryption::Server);
    let with_kms = stored(headers(&[], None), Some("STANDARD_IA"), Encryption::Kms(Some("alias/a b".into())));
    let key_of_customer = CustomerKey::new(&[0xe9; 32]);
    let with_key = stored(headers(&[], None), None, Encryption::Customer(key_of_customer.clone()));
    let answered = Stored {
        etag: Some("\"e\"".to_owned()),
        protection: Protection {
            encryption: Some("aws:kms".to_owned()),
            kms_key: Some("arn:aws:kms:1".to_owned()),
            customer_md5: Some("bWQ1".to_owned()),
        },
    };
    let (none, absent) = (Precondition::None, Precondition::Absent);
    let version = Precondition::Version(Version::new("\"abc\""));
    let number = PartNumber::new(7).unwrap();
    let bytes = [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![7; 600 << 10])];
    let mut count = 0;
    for key in ["a", "p/a b+c%d/\u{e9}\u{65e5}/~x_-.'()*!&=?#;:@,$[]|\\^`\"<>{}", "deep/er/..x/.y"] {
        for (of, checksum, customer) in [
            (Of::Object { headers: &plain, when: &none }, true, None),
            (Of::Object { headers: &full, when: &absent }, true, None),
            (Of::Object { headers: &full, when: &version }, false, None),
            (Of::Object { headers: &archived, when: &none }, true, None),
            (Of::Object { headers: &with_kms, when: &none }, true, None),
            (Of::Object { headers: &with_key, when: &absent }, true, Some(&key_of_customer)),
            (Of::Part { upload: "abc.-_~", number }, true, None),
            (Of::Part { upload: "abc", number }, true, Some(&key_of_customer)),
            (Of::Part { upload: "a+b/c==&d e", number: PartNumber::MIN }, false, None),
        ] {
            for bytes in &bytes {
                let payload = Digest::of(bytes);
                let checksum = checksum.then_some(payload);
                let put = Put { key, of, bytes, payload, checksum, customer };
                let (theirs, ours) = (sdk.put(0, put).await.unwrap(), direct.put(0, put).await.unwrap());
                assert_eq!(ours, theirs);
                assert_eq!(ours, answered);
                let theirs = seen.recv().await.unwrap().without_own();
                let ours = seen.recv().await.unwrap().without_own();
                assert_eq!(ours, theirs);
                count += 1;
            }
        }
    }
    assert_eq!(count, 81);
}

/// Everything that an answer may say, its range apart.
const FOUND: &str = "HTTP/1.1 206 Partial Content\r\nETag: \"e\"\r\nContent-Length: 5\r\n\
    Content-Range: bytes 2-6/10\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Last-Modified: Thu, 26 Nov 2026 08:09:10 GMT\r\nX-Amz-Meta-Tag-A: caf%C3%A9\r\n\
    x-amz-meta-Foreign: caf\u{e9} =?UTF-8?Q?=C3=A9?=\r\nx-amz-meta-sha256: 00ff\r\n\
    x-amz-checksum-sha256: LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=\r\n\
    x-amz-checksum-type: FULL_OBJECT\r\nx-amz-request-id: 1\r\n\r\nhello";

#[tokio::test]
async fn what_is_asked_for_is_what_the_sdk_asks_for_and_what_is_understood_too() {
    let (endpoint, mut seen) = server(FOUND).await;
    let (sdk, direct) = carriers(&endpoint).await;
    let key_of_customer = CustomerKey::new(&[0xe9; 32]);
    let mut count = 0;
    for key in ["a", "p/a b+c%d/\u{e9}\u{65e5}/~x_-.'()*!&=?#;:@,$[]|\\^`\"<>{}", "deep/er/..x/.y"] {
        for range in [None, Some("bytes=2-6"), Some("bytes=-3")] {
            for (if_match, customer) in
                [(None, None), (Some("\"abc\""), None), (None, Some(&key_of_customer))]
            {
                let get = Get { key, range, if_match, customer };
                let (theirs, ours) = (sdk.get(0, get).await.unwrap(), direct.get(0, get).await.unwrap());
                assert_eq!(ours.facts, theirs.facts);
                assert!(ours.facts.etag.is_some(), "{:?}", ours.facts);
                assert_eq!(ours.content_range, theirs.content_range);
                for got in [ours, theirs] {
                    let body: Vec<Bytes> = got.body.map(Result::unwrap).collect().await;
                    assert_eq!(body.concat(), b"hello");
                }
                let theirs = seen.recv().await.unwrap().without_own();
                let ours = seen.recv().await.unwrap().without_own();
                assert_eq!(ours, theirs);
                count += 1;
            }
        }
    }
    assert_eq!(count, 27);
}

#[tokio::test]
async fn a_head_is_what_the_sdk_asks_for_and_is_understood_too() {
    let found = FOUND.strip_suffix("hello").unwrap();
    let secret = CustomerKey::new(&[0xe9; 32]);
    let (endpoint, mut seen) = server(found).await;
    let (sdk, direct) = carriers(&endpoint).await;
    for key in ["a", "p/a b+c%d/\u{e9}\u{65e5}/~x_-.'()*!&=?#;:@,$[]|\\^`\"<>{}", "deep/er/..x/.y"] {
        for customer in [None, Some(&secret)] {
            let head = Head { key, customer };
            let (theirs, ours) = (sdk.head(0, head).await.unwrap(), direct.head(0, head).await.unwrap());
            assert_eq!(ours, theirs);
            assert!(ours.etag.is_some() && ours.size == Some(5), "{ours:?}");
            let theirs = seen.recv().await.unwrap().without_own();
            let ours = seen.recv().await.unwrap().without_own();
            assert!(ours.0.line.starts_with("HEAD "), "{ours:?}");
            assert_eq!(ours, theirs);
        }
    }
}

/// There is no text that would say more than the status.
#[tokio::test]
async fn a_refused_head_means_what_the_sdk_says_it_means() {
    use crate::backend::s3::error::Request;
    for (answer, kind) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 99\r\n\r\n", ErrorKind::NotFound),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", ErrorKind::Denied),
        ("HTTP/1.1 503 Slow Down\r\nContent-Length: 99\r\n\r\n", ErrorKind::Unavailable),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", ErrorKind::Unavailable),
    ] {
        let (endpoint, _seen) = server(answer).await;
        let (sdk, direct) = carriers(&endpoint).await;
        let (request, head) = (Request::read(Op::Metadata), Head { key: "a", customer: None });
        let (theirs, ours) = (sdk.head(0, head).await.unwrap_err(), direct.head(0, head).await.unwrap_err());
        let [theirs, ours] = [theirs, ours].map(|failure| sdk.clients.error(failure, request, Effect::None));
        assert_eq!((ours.kind(), ours.retry()), (theirs.kind(), theirs.retry()), "{answer}");
        assert_eq!(ours.kind(), kind, "{answer}");
    }
}

/// A body that ends before its time is no body, and one that moves no more is not waited for.
#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    const CUT: &str = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 10\r\n\r\nhello";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (_, direct) = carriers(&endpoint).await;
    let get = Get { key: "a", range: None, if_match: None, customer: None };
    for stalls in [false, true] {
        let answer = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut some = [0; 4096];
            assert_ne!(socket.read(&mut some).await.unwrap(), 0);
            socket.write_all(CUT.as_bytes()).await.unwrap();
            stalls.then_some(socket)
        };
        let (socket, got) = futures::join!(answer, direct.get(0, get));
        let mut body = got.unwrap().body;
        let mut bytes = Vec::new();
        if stalls {
            // Only now: a clock that stands still skips to its next timer, and connecting has one as well.
            tokio::time::pause();
        }
        let error = loop {
            match body.next().await.expect("five bytes are missing") {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(bytes, b"hello");
        assert_eq!(error.contains("no byte came for 20s"), stalls, "{error}");
        drop(socket);
    }
}

#[tokio::test]
async fn a_refusal_is_read_as_the_sdk_reads_it() {
    const REFUSED: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Type: application/xml\r\n\
        Content-Length: 126\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>\
        Reduce &lt;your&gt; rate</Message><Extra/></Error>   ";
    let (endpoint, _seen) = server(REFUSED).await;
    let (sdk, direct) = carriers(&endpoint).await;
    let (plain, none, bytes) = (headers(&[], None), Precondition::None, Bytes::from_static(b"x"));
    let payload = Digest::of(&bytes);
    let of = Of::Object { headers: &plain, when: &none };
    let put = Put { key: "a", of, bytes: &bytes, payload, checksum: None, customer: None };
    let (theirs, ours) = (sdk.put(0, put).await.unwrap_err(), direct.put(0, put).await.unwrap_err());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    assert_eq!((ours.status(), ours.code()), (Some(503), "SlowDown"));
    let get = Get { key: "a", range: None, if_match: None, customer: None };
    let refused = |got: Result<Got, Failure>| format!("{:?}", got.err().unwrap());
    assert_eq!(refused(direct.get(0, get).await), refused(sdk.get(0, get).await));
}

#[tokio::test]
async fn nobody_there_means_nothing_was_done_and_a_lost_answer_that_nobody_knows() {
    use crate::backend::s3::error::Request;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (_, direct) = carriers(&endpoint).await;
    let (plain, none, bytes) = (headers(&[], None), Precondition::None, Bytes::from_static(b"x"));
    let payload = Digest::of(&bytes);
    let of = Of::Object { headers: &plain, when: &none };
    let put = Put { key: "a", of, bytes: &bytes, payload, checksum: None, customer: None };
    let request = Request::write(Op::Upload);
    // The request is read, and the connection closed without an answer.
    let closing = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut some = [0; 64];
        socket.read_exact(&mut some).await.unwrap();
        drop(listener);
    });
    let lost = direct.put(0, put).await.unwrap_err();
    closing.await.unwrap();
    assert_eq!(lost.effect(request), Effect::Unknown);
    let refused = direct.put(0, put).await.unwrap_err();
    assert_eq!(refused.effect(request), Effect::None);
    assert!(refused.moves_on(request));
    let shown = format!("{refused:?} {lost:?} {direct:?}");
    assert!(!shown.contains("wJalrXUtnFEMI"), "{shown}");
    assert_eq!(refused.into_error(request, Effect::None).kind(), ErrorKind::Unavailable);
}

#[test]
fn what_is_not_plain_sigv4_for_s3_is_left_to_the_sdk() {
    let of = |url: &str| Base::of(url);
    let query =
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101%2Fus-west-2%2Fs3%2Faws4_request";
    let base = of(&format!("https://bucket.s3.us-west-2.amazonaws.com/key?x-id=PutObject&{query}")).unwrap();
    assert_eq!(base.url, "https://bucket.s3.us-west-2.amazonaws.com/");
    assert_eq!(base.region, "us-west-2");
    let base = of(&format!("http://[::1]:9000/base/bucket/key?{query}")).unwrap();
    assert_eq!(base.url, "http://[::1]:9000/base/bucket/");
    for wrong in [
        query.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        query.replace("%2Fs3%2F", "%2Fs3express%2F"),
        query.replace("&X-Amz-Credential", "&X-Amz-S3session-Token=t&X-Amz-Credential"),
        String::new(),
    ] {
        assert!(of(&format!("http://h/key?{wrong}")).is_err(), "{wrong}");
    }
}
