//! Who is let in. Pure, apart from the settings that a reload replaces.
//!
//! A page of another site that the user happens to look at can make the browser send requests to the loopback
//! interface. So every request must name this daemon as its `Host` (a name that an attacker points at 127.0.0.1 is not
//! it: DNS rebinding), and one that changes anything must also carry a token, which no browser adds by itself, declare a
//! JSON body, which no form of another site can, and come from no other origin.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::web::answer::Problem;

/// Shortest token: 16 random letters and digits are beyond guessing over a network.
const SHORTEST: usize = 16;

/// A token, known by its hash. Compared in constant time, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Takes a text without the white space around it.
    ///
    /// # Errors
    /// What is wrong with it, without the text.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err("is shorter than 16 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has characters that a header cannot carry: use letters, digits and punctuation");
        }
        Ok(Self(Sha256::digest(text.as_bytes()).into()))
    }

    fn is(&self, text: &[u8]) -> bool {
        // Hashes are of one length, and what their comparison tells of is no part of the token.
        let other: [u8; 32] = Sha256::digest(text).into();
        self.0.ct_eq(&other).into()
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// `Host` is none of the daemon's.
    Host,
    /// Another site's page sent it.
    Origin,
    /// It changes something, and no token is set.
    NoToken,
    /// The token is missing or wrong.
    Token,
    /// It changes something, and its body is not declared as JSON.
    ContentType,
}

impl Refused {
    /// Returns the word that metrics have.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::NoToken => "no_token",
            Self::Token => "token",
            Self::ContentType => "content_type",
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "this is not the host that the request names; `hosts` in the section [daemon] adds names",
            ),
            Self::Origin => (StatusCode::FORBIDDEN, "requests of other sites' pages are refused"),
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "this daemon takes no orders, as it has no token: set token_file in the section [daemon]",
            ),
            Self::Token => {
                (StatusCode::UNAUTHORIZED, "the daemon's token is needed: Authorization: Bearer TOKEN")
            }
            Self::ContentType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON: Content-Type: application/json")
            }
        };
        let mut response = Problem::new(status, message).into_response();
        if self == Self::Token {
            let bearer = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// Who is let in.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    /// Whether other machines can reach it: then everything needs the token.
    remote: bool,
    settings: RwLock<Settings>,
}

#[derive(Debug)]
struct Settings {
    hosts: Vec<String>,
    token: Option<Token>,
}

/// What even a daemon that other machines reach shows to everybody: it says nothing of any file or job. Whoever has the
/// token needs a page to enter it in.
const OPEN: [&str; 2] = ["/", "/healthz"];

impl Gate {
    /// Makes the gate of a daemon that listens at `port`; `hosts` are further values of `Host` that are right.
    pub fn new(port: u16, hosts: Vec<String>, remote: bool, token: Option<Token>) -> Self {
        Self { port, remote, settings: RwLock::new(Settings { hosts, token }) }
    }

    /// Takes other settings from now on. Without a token, the former one stays where everything needs it.
    pub fn replace(&self, hosts: Vec<String>, token: Option<Token>) {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        settings.hosts = hosts;
        if token.is_some() || !self.remote {
            settings.token = token;
        }
    }

    /// Lets a request through, or says why not.
    ///
    /// # Errors
    /// The first reason.
    pub fn check(&self, mutates: bool, path: &str, headers: &HeaderMap) -> Result<(), Refused> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let host = one(headers, &header::HOST).ok_or(Refused::Host)?;
        if !self.is_own(host, &settings.hosts) {
            return Err(Refused::Host);
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().map_err(|_| Refused::Origin)?;
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            // Behind a proxy the origin's name is one of `hosts`, as the host's is.
            if !host.is_some_and(|host| self.is_own(host, &settings.hosts)) {
                return Err(Refused::Origin);
            }
        }
        if mutates
            && let Some(site) = headers.get("sec-fetch-site")
            && !matches!(site.as_bytes(), b"same-origin" | b"none")
        {
            return Err(Refused::Origin);
        }
        if mutates || (self.remote && !OPEN.contains(&path)) {
            let token = settings.token.as_ref().ok_or(Refused::NoToken)?;
            let given = one(headers, &header::AUTHORIZATION).and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            });
            if !given.is_some_and(|given| token.is(given.as_bytes())) {
                return Err(Refused::Token);
            }
        }
        if mutates {
            let kind = one(headers, &header::CONTENT_TYPE).ok_or(Refused::ContentType)?;
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case("application/json") {
                return Err(Refused::ContentType);
            }
        }
        Ok(())
    }

    /// Tells whether a host with its port is this daemon.
    fn is_own(&self, host: &str, hosts: &[String]) -> bool {
        if hosts.iter().any(|own| own.eq_ignore_ascii_case(host)) {
            return true;
        }
        let (name, port) = match host.strip_prefix('[') {
            // An IPv6 address has colons of its own.
            Some(rest) => match rest.split_once(']') {
                Some((name, port)) => (name, port.strip_prefix(':')),
                None => return false,
            },
            None => match host.rsplit_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (host, None),
            },
        };
        // A browser leaves the port out where it is 80.
        if port.map_or(Some(80), |port| port.parse().ok()) != Some(self.port) {
            return false;
        }
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        // An address cannot be pointed elsewhere by a name server. One of another machine is right where those are
        // let in, and whatever the way they come, they have the token.
        name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback() || self.remote)
    }
}

/// Returns the one value of a header; nothing where there are several.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn gate(remote: bool) -> Gate {
        Gate::new(9180, vec!["Backup.example:8443".to_owned()], remote, Some(Token::new(TOKEN).unwrap()))
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn read(gate: &Gate, host: &str) -> Result<(), Refused> {
        gate.check(false, "/api/v1/jobs", &headers(&[("host", host)]))
    }

    fn order(more: &[(&str, &str)], left_out: &str) -> Result<(), Refused> {
        let whole = [
            ("host", "127.0.0.1:9180"),
            ("authorization", "Bearer 0123456789abcdef"),
            ("content-type", "application/json"),
        ];
        let kept = whole
            .into_iter()
            .filter(|(name, _)| *name != left_out && !more.iter().any(|(own, _)| own == name));
        let pairs: Vec<_> = kept.chain(more.iter().copied()).collect();
        gate(false).check(true, "/api/v1/jobs/a/run", &headers(&pairs))
    }

    #[test]
    fn only_the_daemons_own_names_are_answered() {
        for host in [
            "127.0.0.1:9180",
            "localhost:9180",
            "LOCALHOST:9180",
            "[::1]:9180",
            "127.8.8.8:9180",
            "backup.EXAMPLE:8443",
        ] {
            assert_eq!(read(&gate(false), host), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9180",
            "127.0.0.1",
            "localhost",
            "localhost:80",
            "127.0.0.1:9180.evil.example",
            "localhost.evil.example:9180",
            "backup.example",
            "192.0.2.7:9180",
            "[::1",
            "",
            "127.0.0.1:9180@evil.example",
            "[::ffff:192.0.2.7]:9180",
        ] {
            assert_eq!(read(&gate(false), host), Err(Refused::Host), "{host}");
        }
        let gate = gate(false);
        assert_eq!(gate.check(false, "/", &headers(&[])), Err(Refused::Host));
        let twice = headers(&[("host", "127.0.0.1:9180"), ("host", "evil.example")]);
        assert_eq!(gate.check(false, "/", &twice), Err(Refused::Host));
    }

    #[test]
    fn an_order_needs_everything() {
        assert_eq!(order(&[], ""), Ok(()));
        assert_eq!(order(&[("content-type", "Application/JSON; charset=utf-8")], ""), Ok(()));
        assert_eq!(
            order(&[("origin", "http://127.0.0.1:9180"), ("sec-fetch-site", "same-origin")], ""),
            Ok(())
        );
        assert_eq!(order(&[("origin", "https://backup.example:8443")], ""), Ok(()));
        for (more, left_out, refused) in [
            (&[][..], "authorization", Refused::Token),
            (&[("authorization", "Bearer 0123456789abcdeF")], "", Refused::Token),
            (&[("authorization", "Bearer 0123456789abcde")], "", Refused::Token),
            (&[("authorization", "Basic 0123456789abcdef")], "", Refused::Token),
            (&[("authorization", "0123456789abcdef")], "", Refused::Token),
            (&[], "content-type", Refused::ContentType),
            (&[("content-type", "text/plain")], "", Refused::ContentType),
            (&[("content-type", "application/x-www-form-urlencoded")], "", Refused::ContentType),
            (&[("origin", "http://evil.example")], "", Refused::Origin),
            (&[("origin", "null")], "", Refused::Origin),
            (&[("origin", "http://127.0.0.1:9181")], "", Refused::Origin),
            (&[("sec-fetch-site", "cross-site")], "", Refused::Origin),
            (&[("sec-fetch-site", "same-site")], "", Refused::Origin),
            (&[("host", "evil.example:9180")], "", Refused::Host),
        ] {
            assert_eq!(order(more, left_out), Err(refused), "{more:?} without {left_out:?}");
        }
    }

    #[test]
    fn without_a_token_there_are_no_orders() {
        let gate = Gate::new(9180, Vec::new(), false, None);
        let whole = headers(&[
            ("host", "localhost:9180"),
            ("content-type", "application/json"),
            ("authorization", "Bearer "),
        ]);
        assert_eq!(gate.check(true, "/api/v1/jobs/a/run", &whole), Err(Refused::NoToken));
    }

    #[test]
    fn a_daemon_that_others_reach_shows_nothing_without_the_token() {
        let gate = gate(true);
        for path in [
            "/metrics",
            "/readyz",
            "/api/v1/jobs",
            "/api/v1/openapi.json",
            "/api/v1/events",
            "//",
            "/healthz/",
        ] {
            let bare = headers(&[("host", "192.0.2.7:9180")]);
            assert_eq!(gate.check(false, path, &bare), Err(Refused::Token), "{path}");
            let with = headers(&[("host", "192.0.2.7:9180"), ("authorization", "bearer 0123456789abcdef")]);
            assert_eq!(gate.check(false, path, &with), Ok(()), "{path}");
        }
        for path in OPEN {
            assert_eq!(gate.check(false, path, &headers(&[("host", "192.0.2.7:9180")])), Ok(()), "{path}");
        }
        // A reload that lost the token does not open it.
        gate.replace(Vec::new(), None);
        assert_eq!(
            gate.check(false, "/metrics", &headers(&[("host", "192.0.2.7:9180")])),
            Err(Refused::Token)
        );
    }

    #[test]
    fn a_token_is_long_enough_and_never_shown() {
        assert!(Token::new("short").is_err());
        assert!(Token::new("has a space in it which is no token").is_err());
        assert_eq!(Token::new(" 0123456789abcdef\n"), Token::new(TOKEN));
        assert_eq!(format!("{:?}", gate(false)).matches("0123").count(), 0);
    }
}
