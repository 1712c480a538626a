//! Promises of [`FileStorage::presigned_url`](crate::storage::FileStorage::presigned_url).

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Fixture;
use super::support::{data, fails, get, id, left_out, ok, put, same};
use crate::error::ErrorKind;
use crate::storage::{PresignMethod, PresignRequest, PresignedUrl};

const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Performs the request without any credentials, and returns status and body. Nothing for `https`, which this
/// small client does not speak.
async fn perform(presigned: &PresignedUrl, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let url = url::Url::parse(&presigned.url).expect("a URL");
    if url.scheme() != "http" {
        left_out("the URL could not be tried, as it is not http");
        return None;
    }
    let host = url.host_str().expect("a host");
    let port = url.port_or_known_default().expect("a port");
    let mut stream = TcpStream::connect((host, port)).await.expect("connecting to the URL's host");
    let method = match presigned.method {
        PresignMethod::Get => "GET",
        PresignMethod::Put => "PUT",
    };
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n");
    for (name, value) in &presigned.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length_given = presigned.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if presigned.method == PresignMethod::Put && !length_given {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("sending the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reading the answer");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    assert!(!head.contains("transfer-encoding: chunked"), "this small client knows no chunks:\n{head}");
    Some((status, answer.split_off(end + 4)))
}

#[track_caller]
fn assert_url(presigned: &PresignedUrl, method: PresignMethod) {
    assert_eq!(presigned.method, method);
    let left = presigned.expires.duration_since(SystemTime::now()).expect("an expiry in the future");
    assert!(left <= MINUTE, "expires in {left:?}");
    assert!(!format!("{presigned:?}").contains(&presigned.url), "a permission in a Debug output");
}

/// Whoever has the URL can read the file, and only that file.
pub async fn get_can_be_performed_by_anyone(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "d/ü +%.txt", &data(10_000, 1)).await;
    let result = storage.presigned_url(&id("d/ü +%.txt"), PresignRequest::get(MINUTE)).await;
    if !storage.capabilities().presigned_get {
        fails(result, ErrorKind::Unsupported);
        return;
    }
    let presigned = ok(result);
    assert_url(&presigned, PresignMethod::Get);
    let Some((status, body)) = perform(&presigned, b"").await else { return };
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    same(&body, &data(10_000, 1));
    put(storage, "d/other", &data(10, 2)).await;
    let mut other = presigned.clone();
    other.url = other.url.replacen("%C3%BC%20%2B%25.txt", "other", 1);
    assert_ne!(other.url, presigned.url);
    let (status, _) = perform(&other, b"").await.expect("http as before");
    assert_eq!(status, 403, "a permission for one file opened another");
}

/// Whoever has the URL can write the file.
pub async fn put_can_be_performed_by_anyone(fixture: &Fixture) {
    let storage = fixture.storage();
    let result = storage.presigned_url(&id("d/new file"), PresignRequest::put(MINUTE)).await;
    if !storage.capabilities().presigned_put {
        fails(result, ErrorKind::Unsupported);
        return;
    }
    let presigned = ok(result);
    assert_url(&presigned, PresignMethod::Put);
    let Some((status, body)) = perform(&presigned, &data(10_000, 3)).await else { return };
    assert!((200..300).contains(&status), "{status}: {}", String::from_utf8_lossy(&body));
    same(&get(storage, "d/new file").await, &data(10_000, 3));
}

/// From one second to seven days.
pub async fn refuses_an_expiry_out_of_range(fixture: &Fixture) {
    let storage = fixture.storage();
    let capabilities = storage.capabilities();
    put(storage, "a", &data(10, 4)).await;
    for (request, capable) in [
        (PresignRequest::get as fn(Duration) -> PresignRequest, capabilities.presigned_get),
        (PresignRequest::put, capabilities.presigned_put),
    ] {
        for expiry in [Duration::ZERO, Duration::from_millis(500), WEEK + Duration::from_secs(1)] {
            let kind = if capable { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
            fails(storage.presigned_url(&id("a"), request(expiry)).await, kind);
        }
        if capable {
            for expiry in [Duration::from_secs(1), WEEK] {
                ok(storage.presigned_url(&id("a"), request(expiry)).await);
            }
        }
    }
}

/// An option that the request cannot have is an error, as everywhere.
pub async fn refuses_options_of_the_other_method(fixture: &Fixture) {
    let storage = fixture.storage();
    let capabilities = storage.capabilities();
    for (request, capable) in [
        (PresignRequest::get(MINUTE).with_content_type("text/plain"), capabilities.presigned_get),
        (PresignRequest::get(MINUTE).with_content_length(3), capabilities.presigned_get),
        (PresignRequest::put(MINUTE).with_save_as("a"), capabilities.presigned_put),
        (PresignRequest::put(MINUTE).with_inline(), capabilities.presigned_put),
    ] {
        let kind = if capable { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
        fails(storage.presigned_url(&id("a"), request).await, kind);
    }
}

/// A storage that may not write gives nobody leave to.
pub async fn read_only_signs_for_reading_only(fixture: &Fixture) {
    let Some(storage) = &fixture.read_only else {
        left_out("the fixture has no opening for reading only");
        return;
    };
    let capabilities = storage.capabilities();
    assert!(!capabilities.presigned_put, "capabilities().presigned_put of a storage that may not write");
    if !capabilities.presigned_get {
        return;
    }
    ok(storage.presigned_url(&id("a"), PresignRequest::get(MINUTE)).await);
    fails(storage.presigned_url(&id("a"), PresignRequest::put(MINUTE)).await, ErrorKind::Denied);
}
