use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::id::MAX_ID_BYTES;

const BASE: &str = "https://files.example.org/f";
const NOW: SystemTime = UNIX_EPOCH;

fn key(byte: u8) -> SigningKey {
    SigningKey::new([byte; MIN_KEY_BYTES]).unwrap()
}

fn signer() -> UrlSigner {
    UrlSigner::new(BASE, key(1)).unwrap()
}

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn get() -> PresignRequest {
    PresignRequest::get(Duration::from_secs(60))
}

fn put() -> PresignRequest {
    PresignRequest::put(Duration::from_secs(60))
}

/// What a router takes from the URL.
fn target(url: &PresignedUrl) -> &str {
    url.url.strip_prefix(BASE).unwrap().strip_prefix('/').unwrap()
}

/// The seed of a random test: given, or new and printed.
#[expect(clippy::print_stderr, reason = "a failure can be run again")]
fn random(test: &str) -> StdRng {
    let given = std::env::var("PRESIGN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    eprintln!("{test}: PRESIGN_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Texts of what is hard on an encoding.
fn text(random: &mut StdRng, longest: usize) -> String {
    let hard =
        ['/', '.', '%', '&', '=', '?', '#', '+', ' ', '\n', '\u{0}', '"', 'a', 'Z', '0', 'é', '日', '~', ';'];
    let length = random.random_range(1..=longest);
    (0..length)
        .map(|_| match random.random_range(0..4) {
            0 => char::from(random.random_range(0..128u8)),
            1 => random.random(),
            _ => *hard.choose(random).unwrap(),
        })
        .collect()
}

fn random_id(random: &mut StdRng) -> FileId {
    loop {
        if let Ok(id) = FileId::parse(text(random, 30)) {
            return id;
        }
    }
}

fn random_request(random: &mut StdRng) -> PresignRequest {
    let expires_in = Duration::from_millis(random.random_range(1000..=7 * 86_400_000));
    if random.random() {
        let mut request = PresignRequest::get(expires_in);
        request.save_as = random.random_bool(0.5).then(|| text(random, 20));
        request.inline = random.random();
        request
    } else {
        let mut request = PresignRequest::put(expires_in);
        let types = ["text/plain", "text/html; charset=\"utf-8\"", "a/b+c%20&length=3"];
        request.content_type = random.random_bool(0.5).then(|| (*types.choose(random).unwrap()).to_owned());
        request.content_length = random.random_bool(0.5).then(|| random.random());
        request
    }
}

/// Key id and signature were computed by another implementation of HMAC-SHA256 (Python's).
#[test]
fn a_url_and_its_signature_are_what_the_documentation_says() {
    let request = put().with_content_type("text/plain; charset=utf-8").with_content_length(5);
    let url = signer().sign(&id("d/ü +%.txt"), &request, NOW).unwrap();
    let key = "66aabb15d00ff1a3";
    assert_eq!(
        url.url,
        format!(
            "{BASE}/d/%C3%BC%20%2B%25.txt?v=1&key={key}&expires=60000\
             &type=text%2Fplain%3B%20charset%3Dutf-8&length=5\
             &signature=cf9303842280de496f6f15da64699074d2e1a6e142d03516602a6933bbba3119"
        )
    );
    let headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", "5")];
    assert_eq!(url.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(url.expires, NOW + Duration::from_secs(60));
}

/// The permission that was signed is the one that is granted, from now until its expiry and not a moment longer.
#[test]
fn every_signed_url_is_accepted_until_it_expires() {
    let mut random = random("every_signed_url_is_accepted_until_it_expires");
    for _ in 0..2000 {
        let now = NOW + Duration::from_millis(random.random_range(0..=4_000_000_000_000));
        let (id, request) = (random_id(&mut random), random_request(&mut random));
        let url = signer().sign(&id, &request, now).unwrap();
        let granted = Grant {
            id,
            method: request.method,
            expires: now + request.expires_in,
            content_type: request.content_type,
            content_length: request.content_length,
            save_as: request.save_as,
            inline: request.inline,
        };
        assert_eq!(url.expires, granted.expires);
        let last = granted.expires - Duration::from_nanos(1);
        for time in [now, last, now - Duration::from_secs(1).min(now.duration_since(NOW).unwrap())] {
            assert_eq!(signer().verify(request.method, target(&url), time).as_ref(), Ok(&granted));
        }
        for time in [granted.expires, granted.expires + Duration::from_secs(9)] {
            assert_eq!(signer().verify(request.method, target(&url), time), Err(Refused::Expired));
        }
    }
}

/// Whatever byte of a URL is changed, left out or put in, it is no permission any more: neither for another file,
/// time, type or length, nor a second spelling of the same.
#[test]
fn a_url_with_one_byte_changed_is_refused() {
    let mut random = random("a_url_with_one_byte_changed_is_refused");
    for _ in 0..40 {
        let (id, request) = (random_id(&mut random), random_request(&mut random));
        let url = signer().sign(&id, &request, NOW).unwrap();
        let target = target(&url);
        let refused = |method, changed: &str| {
            let answer = signer().verify(method, changed, NOW);
            assert!(answer.is_err(), "{target}\n{changed}\n{answer:?}");
        };
        let other = match request.method {
            PresignMethod::Get => PresignMethod::Put,
            PresignMethod::Put => PresignMethod::Get,
        };
        refused(other, target);
        for at in 0..target.len() {
            // The case of a letter, the next digit, and anything at all.
            let byte = target.as_bytes()[at];
            for new in [byte ^ 0x20, byte.wrapping_add(1) & 0x7f, random.random_range(0..128)] {
                let mut changed = target.as_bytes().to_vec();
                changed[at] = new;
                if new != byte {
                    refused(request.method, std::str::from_utf8(&changed).unwrap());
                }
            }
            refused(request.method, &format!("{}{}", &target[..at], &target[at + 1..]));
            let inserted = char::from(random.random_range(0..128u8));
            refused(request.method, &format!("{}{inserted}{}", &target[..at], &target[at..]));
            refused(request.method, &target[..at]);
        }
        refused(request.method, &format!("{target}0"));
        refused(request.method, &format!("{target}&a=b"));
    }
}

#[test]
fn no_text_makes_the_check_panic() {
    let mut random = random("no_text_makes_the_check_panic");
    let url = signer().sign(&id("a"), &get(), NOW).unwrap();
    let pieces = ["&signature=", "?", "v=1&key=", key(1).id(), "&", "expires=", "é", "%", "%F", "a", "\n"]
        .map(str::to_owned);
    for _ in 0..20_000 {
        let mut made: String =
            (0..random.random_range(0..8)).map(|_| pieces.choose(&mut random).unwrap().as_str()).collect();
        if random.random() {
            made.push_str(&text(&mut random, 20));
        }
        assert!(signer().verify(PresignMethod::Get, &made, NOW).is_err(), "{made}");
    }
    assert!(signer().verify(PresignMethod::Get, target(&url), NOW).is_ok());
}

#[test]
fn after_a_rotation_both_keys_are_accepted_and_the_new_one_signs() {
    let (old, new, other) = (key(1), key(2), key(3));
    let before = UrlSigner::new(BASE, old.clone()).unwrap();
    let after = UrlSigner::new(BASE, new.clone()).unwrap().with_previous(old.clone());
    let ahead = UrlSigner::new(BASE, old).unwrap().with_previous(new.clone());
    let url = before.sign(&id("a"), &get(), NOW).unwrap();
    assert!(after.verify(PresignMethod::Get, target(&url), NOW).is_ok());
    let url = after.sign(&id("a"), &get(), NOW).unwrap();
    assert!(url.url.contains(new.id()));
    assert!(ahead.verify(PresignMethod::Get, target(&url), NOW).is_ok());
    assert_eq!(before.verify(PresignMethod::Get, target(&url), NOW), Err(Refused::UnknownKey));
    let stranger = UrlSigner::new(BASE, other).unwrap();
    assert_eq!(stranger.verify(PresignMethod::Get, target(&url), NOW), Err(Refused::UnknownKey));
}

#[test]
fn a_key_that_two_storages_share_opens_only_the_one() {
    let url = signer().sign(&id("a"), &get(), NOW).unwrap();
    let other = UrlSigner::new("https://files.example.org/g", key(1)).unwrap();
    assert_eq!(other.verify(PresignMethod::Get, target(&url), NOW), Err(Refused::Signature));
}

#[test]
fn what_no_url_can_say_is_refused_when_it_is_signed() {
    let long = "é".repeat(MAX_URL_BYTES / 6);
    for (request, why) in [
        (put().with_content_type("text/plain\r\nx: y"), "cannot be sent as a header"),
        (put().with_content_type("text/plain "), "cannot be sent as a header"),
        (put().with_content_type(""), "cannot be sent as a header"),
        (put().with_save_as("a"), "for a URL that reads"),
        (put().with_inline(), "for a URL that reads"),
        (get().with_content_length(1), "for a URL that writes"),
        (get().with_content_type("a/b"), "for a URL that writes"),
        (get().with_save_as(long), "not every browser"),
        (PresignRequest::get(Duration::from_millis(999)), "not within 1 second and 7 days"),
        (PresignRequest::get(Duration::MAX), "not within 1 second and 7 days"),
    ] {
        let error = signer().sign(&id("a"), &request, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(signer().sign(&id(&"é".repeat(MAX_ID_BYTES / 2)), &get(), NOW).is_ok());
}

#[test]
fn a_base_url_has_one_spelling() {
    for (given, base, path) in [
        ("https://files.example.org", "https://files.example.org", ""),
        ("HTTPS://Files.Example.org:443/", "https://files.example.org", ""),
        ("http://127.0.0.1:80/a/../files/", "http://127.0.0.1/files", "/files"),
        ("http://[::1]:8080/a-b/c_~.d", "http://[::1]:8080/a-b/c_~.d", "/a-b/c_~.d"),
    ] {
        let signer = UrlSigner::new(given, key(1)).unwrap();
        assert_eq!((signer.base_url(), signer.base_path()), (base, path));
    }
    for given in [
        "files.example.org",
        "/files",
        "ftp://files.example.org",
        "https://user:secret@files.example.org",
        "https://files.example.org/?a=b",
        "https://files.example.org/#a",
        "https://files.example.org/{id}",
        "https://files.example.org/a//b",
        "https://files.example.org/%41",
    ] {
        let error = UrlSigner::new(given, key(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{given}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn keys_come_from_files_and_are_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let secret = "0123456789abcdef0123456789abcdef";
    let current = file("current", format!("{secret}\n").as_bytes());
    let previous = file("previous", &[7; MIN_KEY_BYTES]);
    let signer = PresignConfig::new(BASE, &current).with_previous_key_file(&previous).signer().unwrap();
    let same = UrlSigner::new(BASE, SigningKey::new(secret).unwrap()).unwrap().with_previous(key(7));
    assert_eq!(signer, same);
    let shown = format!("{signer:?}");
    assert!(!shown.contains("0123456789abcdef") && shown.contains("not shown"), "{shown}");
    for (path, why) in [
        (file("short", &secret.as_bytes()[..31]), "31 bytes; it has at least 32"),
        (file("empty", b""), "0 bytes; it has at least 32"),
        (file("huge", &[1; 5000]), "no key"),
        (directory.path().join("missing"), "missing: No such file"),
    ] {
        let error = PresignConfig::new(BASE, &path).signer().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.to_string().contains(&secret[..31]), "{error}");
    }
}
