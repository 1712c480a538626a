//! How objects are stored: their storage class, and who encrypts them with which key.
//!
//! A server may take the headers of both, answer 200 and do nothing. So opening a storage for writing asks what became
//! of a canary ([`capabilities`](super::capabilities)), and every answer that should tell of the encryption is looked
//! at ([`Storing::check`]): what was asked for and not done is an error, never silence.

use std::fmt;
use std::sync::Arc;

use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use md5::{Digest as _, Md5};
use serde::Deserialize;

use crate::error::{Effect, Error, ErrorKind, Op, Result};

/// Bytes of a customer's key: AES-256 is the one algorithm there is.
const KEY_BYTES: usize = 32;

/// The one algorithm of customers' keys, and the name of the encryption with keys of the server's.
pub(super) const AES256: &str = "AES256";

const KMS: &str = "aws:kms";

/// The class that a server need not name.
const STANDARD: &str = "STANDARD";

pub(super) const CLASS_HEADER: &str = "x-amz-storage-class";
pub(super) const SSE_HEADER: &str = "x-amz-server-side-encryption";
pub(super) const KMS_KEY_HEADER: &str = "x-amz-server-side-encryption-aws-kms-key-id";
pub(super) const CUSTOMER_ALGORITHM_HEADER: &str = "x-amz-server-side-encryption-customer-algorithm";
pub(super) const CUSTOMER_KEY_HEADER: &str = "x-amz-server-side-encryption-customer-key";
pub(super) const CUSTOMER_MD5_HEADER: &str = "x-amz-server-side-encryption-customer-key-md5";

/// Who encrypts objects, and with which key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Encryption {
    /// As the bucket's own settings have it.
    #[default]
    Bucket,
    /// With keys of the server's (SSE-S3).
    Server,
    /// With a key of the key management service (SSE-KMS): its id, ARN or alias; without one, the account's own.
    Kms(Option<String>),
    /// With a key that is sent along with every request and that the server forgets (SSE-C). Who loses the key has
    /// lost the objects. Needs TLS, but for servers on the loopback interface.
    #[serde(skip)]
    Customer(CustomerKey),
}

/// A customer's key: 32 bytes that are neither shown nor logged, and read from no configuration file.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey {
    shown: Arc<Written>,
}

/// The key as headers have it.
#[derive(PartialEq, Eq)]
struct Written {
    key: String,
    md5: String,
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl CustomerKey {
    /// Takes the bytes as they are.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let md5 = BASE64.encode(Md5::digest(key));
        Self { shown: Arc::new(Written { key: BASE64.encode(key), md5 }) }
    }

    /// Reads what a file or an environment variable holds: 32 bytes as they are, or their text in base64 (44
    /// characters) or hexadecimal (64 digits), with white space around it.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured), without a byte of what was read.
    pub fn parse(content: &[u8]) -> Result<Self> {
        if let Ok(key) = content.try_into() {
            return Ok(Self::new(key));
        }
        let text = content.trim_ascii();
        let bytes = hex::decode(text).ok().or_else(|| BASE64.decode(text).ok());
        match bytes.as_deref().map(<&[u8; KEY_BYTES]>::try_from) {
            Some(Ok(key)) => Ok(Self::new(key)),
            _ => Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(
                "a customer key has 32 bytes, as they are or written in base64 or hexadecimal: make one with \
                 `openssl rand -base64 32`",
            )),
        }
    }

    /// The key in base64, for its header and nothing else.
    pub(super) fn header(&self) -> &str {
        &self.shown.key
    }

    /// The MD5 of the key in base64: by it the server sees that the key came as it was sent.
    pub(super) fn md5(&self) -> &str {
        &self.shown.md5
    }
}

/// What every object of a storage is stored with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Storing {
    pub(super) class: Option<String>,
    pub(super) encryption: Encryption,
}

impl Storing {
    pub(super) fn customer(&self) -> Option<&CustomerKey> {
        match &self.encryption {
            Encryption::Customer(key) => Some(key),
            _ => None,
        }
    }

    pub(super) fn algorithm(&self) -> Option<String> {
        self.customer().map(|_| AES256.to_owned())
    }

    pub(super) fn key(&self) -> Option<String> {
        self.customer().map(|key| key.header().to_owned())
    }

    pub(super) fn md5(&self) -> Option<String> {
        self.customer().map(|key| key.md5().to_owned())
    }

    pub(super) fn sdk_class(&self) -> Option<StorageClass> {
        self.class.as_deref().map(StorageClass::from)
    }

    pub(super) fn sdk_encryption(&self) -> Option<ServerSideEncryption> {
        self.encryption_header().map(ServerSideEncryption::from)
    }

    /// What `x-amz-server-side-encryption` says.
    pub(super) fn encryption_header(&self) -> Option<&'static str> {
        match &self.encryption {
            Encryption::Server => Some(AES256),
            Encryption::Kms(_) => Some(KMS),
            _ => None,
        }
    }

    pub(super) fn kms_key(&self) -> Option<&str> {
        match &self.encryption {
            Encryption::Kms(key) => key.as_deref(),
            _ => None,
        }
    }

    /// The same without the class: canaries come and go, which the classes of archives bill for months.
    pub(super) fn without_class(&self) -> Self {
        Self { class: None, encryption: self.encryption.clone() }
    }

    /// Compares what an answer tells of the encryption with what was asked for. `effect` is what the request did.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported), naming the option that was not honoured.
    pub(super) fn check(&self, told: &Protection, op: Op, effect: Effect) -> Result<()> {
        let wrong = match &self.encryption {
            Encryption::Bucket => None,
            Encryption::Server => (told.encryption.as_deref() != Some(AES256))
                .then_some("the server did not encrypt the object with keys of its own, as SSE-S3 asks for"),
            Encryption::Kms(key) => {
                let another = match (key.as_deref(), told.kms_key.as_deref()) {
                    // An alias is answered by the key that it stands for.
                    (Some(asked), Some(told)) if !asked.contains("alias/") => {
                        told != asked && !told.ends_with(&format!("/{asked}"))
                    }
                    _ => false,
                };
                (told.encryption.as_deref() != Some(KMS) || another).then_some(
                    "the server did not encrypt the object with the key of the key management service that \
                     SSE-KMS asks for",
                )
            }
            Encryption::Customer(key) => (told.customer_md5.as_deref() != Some(key.md5()))
                .then_some("the server did not encrypt the object with the customer key (SSE-C)"),
        };
        match wrong {
            None => Ok(()),
            Some(message) => Err(Error::new(ErrorKind::Unsupported, op)
                .with_effect(effect)
                .with_message(format!("{message}: leave the option out, or use a server that has it"))),
        }
    }

    /// Compares the class that an answer names with what was asked for.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported), naming both.
    pub(super) fn check_class(&self, told: Option<&str>, op: Op) -> Result<()> {
        let Some(asked) = self.class.as_deref() else { return Ok(()) };
        let told = told.unwrap_or(STANDARD);
        if told == asked {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, op).with_message(format!(
            "asked for the storage class {asked}, the server stores as {told}: leave the class out, or name one \
             that it has"
        )))
    }
}

/// What an answer tells of the encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) encryption: Option<String>,
    pub(super) kms_key: Option<String>,
    pub(super) customer_md5: Option<String>,
}

impl Protection {
    pub(super) fn new(
        encryption: Option<&ServerSideEncryption>,
        kms_key: Option<&str>,
        customer_md5: Option<&str>,
    ) -> Self {
        Self {
            encryption: encryption.map(|encryption| encryption.as_str().to_owned()),
            kms_key: kms_key.map(str::to_owned),
            customer_md5: customer_md5.map(str::to_owned),
        }
    }
}

impl From<&HeaderMap> for Protection {
    fn from(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            encryption: text(SSE_HEADER),
            kms_key: text(KMS_KEY_HEADER),
            customer_md5: text(CUSTOMER_MD5_HEADER),
        }
    }
}

/// Tells whether a key may be sent to this URL: by TLS, or to a server of this machine.
pub(super) fn is_private(url: &url::Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8; 32] = b"0123456789abcdef0123456789ABCDE\n";

    #[test]
    fn a_key_is_read_in_every_form_and_shown_in_none() {
        let key = CustomerKey::new(KEY);
        let (base64, hex) = (BASE64.encode(KEY), hex::encode(KEY));
        for content in [KEY.to_vec(), format!("{base64}\n").into_bytes(), format!(" {hex}\r\n").into_bytes()]
        {
            assert_eq!(CustomerKey::parse(&content).unwrap(), key);
        }
        // "Specifying SSE-C", Amazon S3 User Guide: base64 of the MD5 of the 32 bytes.
        assert_eq!(key.md5(), BASE64.encode(Md5::digest(KEY)));
        for content in
            [b"".as_slice(), b"0123456789abcdef", &[b'a'; 33], &base64.as_bytes()[4..], &hex.as_bytes()[2..]]
        {
            let error = CustomerKey::parse(content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            let shown = format!("{error} {error:?}");
            assert!(content.is_empty() || !shown.contains(&*String::from_utf8_lossy(content)), "{shown}");
        }
        let shown =
            format!("{:?} {key:?}", Storing { class: None, encryption: Encryption::Customer(key.clone()) });
        assert!(!shown.contains(key.header()) && !shown.contains(key.md5()) && shown.contains("not shown"));
        assert!(serde_json::from_str::<Encryption>(&format!("{{\"customer\":{base64:?}}}")).is_err());
        assert_eq!(
            serde_json::from_str::<Encryption>("{\"kms\":\"k\"}").unwrap(),
            Encryption::Kms(Some("k".into()))
        );
    }

    #[test]
    fn what_was_not_done_is_an_error_that_names_it() {
        let check = |encryption: &Encryption, told: &Protection| {
            Storing { class: None, encryption: encryption.clone() }.check(told, Op::Upload, Effect::Applied)
        };
        let nothing = Protection::default();
        let told = |encryption: &str, kms_key: Option<&str>| Protection {
            encryption: Some(encryption.to_owned()),
            kms_key: kms_key.map(str::to_owned),
            customer_md5: None,
        };
        let kms = |key: &str| Encryption::Kms(Some(key.to_owned()));
        let arn = "arn:aws:kms:eu-north-1:1:key/1234";
        for (asked, answer, good) in [
            (Encryption::Bucket, nothing.clone(), true),
            (Encryption::Bucket, told(AES256, None), true),
            (Encryption::Server, nothing.clone(), false),
            (Encryption::Server, told(KMS, None), false),
            (Encryption::Server, told(AES256, None), true),
            (Encryption::Kms(None), nothing.clone(), false),
            (Encryption::Kms(None), told(KMS, Some(arn)), true),
            (kms("1234"), told(KMS, Some(arn)), true),
            (kms(arn), told(KMS, Some(arn)), true),
            (kms("234"), told(KMS, Some(arn)), false),
            (kms("alias/mine"), told(KMS, Some(arn)), true),
            (kms("1234"), told(AES256, None), false),
            (Encryption::Customer(CustomerKey::new(KEY)), nothing.clone(), false),
            (Encryption::Customer(CustomerKey::new(KEY)), told(AES256, None), false),
        ] {
            let result = check(&asked, &answer);
            assert_eq!(result.is_ok(), good, "{asked:?} {answer:?}");
            if let Err(error) = result {
                assert_eq!((error.kind(), error.effect()), (ErrorKind::Unsupported, Effect::Applied));
                assert!(error.message().unwrap().contains("SSE-"), "{error}");
            }
        }
        let key = CustomerKey::new(KEY);
        let right = Protection { customer_md5: Some(key.md5().to_owned()), ..Protection::default() };
        assert!(check(&Encryption::Customer(key), &right).is_ok());
        assert!(check(&Encryption::Customer(CustomerKey::new(&[7; 32])), &right).is_err());
    }

    #[test]
    fn a_class_that_is_not_named_is_the_standard_one() {
        let of = |class: &str| Storing { class: Some(class.to_owned()), ..Storing::default() };
        assert!(of("STANDARD").check_class(None, Op::Open).is_ok());
        assert!(of("STANDARD_IA").check_class(Some("STANDARD_IA"), Op::Open).is_ok());
        let error = of("STANDARD_IA").check_class(None, Op::Open).unwrap_err();
        assert!(error.message().unwrap().contains("STANDARD_IA"), "{error}");
        assert!(Storing::default().check_class(Some("GLACIER"), Op::Open).is_ok());
    }

    #[test]
    fn a_key_goes_through_tls_or_stays_on_the_machine() {
        for (url, private) in [
            ("https://s3.example", true),
            ("http://127.0.0.1:9000", true),
            ("http://127.8.0.1", true),
            ("http://[::1]:9000", true),
            ("http://localhost:9000", true),
            ("http://files.localhost", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
            ("http://minio:9000", false),
        ] {
            assert_eq!(is_private(&url::Url::parse(url).unwrap()), private, "{url}");
        }
    }
}
