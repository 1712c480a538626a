//! How a server stores, from the options and the configuration file to what a storage is opened with.

use std::io::Read as _;

use storage_core::backend::s3::{CustomerKey, Encryption};
use storage_core::error::{Error, ErrorKind, Op};

use crate::cli::args;
use crate::cli::place::Place;
use crate::config::sse::{KeySource, Sse};
use crate::failure::{Exit, Failure, Side};

/// More than a key has in any form.
const MAX_KEY_FILE: u64 = 4096;

/// Adds what the command line says of how a server stores.
///
/// # Errors
/// It says so of a place that is no bucket.
pub(super) fn stored(place: Place, side: Side, storing: &args::Storing) -> Result<Place, Failure> {
    let key = match side {
        Side::Source => &storing.source_customer_key,
        Side::Target => &storing.customer_key,
    };
    let sse = key.clone().map(Sse::Customer).or_else(|| storing.sse.clone().filter(|_| side == Side::Target));
    let class = storing.storage_class.clone().filter(|_| side == Side::Target);
    match place {
        Place::S3(mut s3) => {
            s3.storage_class = class.or(s3.storage_class);
            s3.sse = sse.or(s3.sse);
            s3.customer_key_over_http |= storing.customer_key_over_http;
            Ok(Place::S3(s3))
        }
        _ if sse.is_some() || class.is_some() => {
            let message = format!("the {side} is no bucket: it has neither storage classes nor encryption");
            Err(Failure::new(Exit::Usage, message)
                .with_hint("leave out --storage-class, --sse and the customer key of that side"))
        }
        place => Ok(place),
    }
}

/// Returns what the report shows of how the target stores. Of a customer's key, that there is one.
pub(super) fn shown(target: &Place) -> impl Iterator<Item = (String, String)> {
    let (class, sse) = match target {
        Place::S3(s3) => (s3.storage_class.clone(), s3.sse.as_ref().map(Sse::to_string)),
        _ => (None, None),
    };
    let given = [("storage-class", class), ("sse", sse)];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

/// Returns what a storage is opened with; reads the key where there is one.
///
/// # Errors
/// [`ErrorKind::Misconfigured`]: there is no key where it should be.
pub(super) fn encryption(sse: &Sse) -> Result<Encryption, Error> {
    Ok(match sse {
        Sse::Server => Encryption::Server,
        Sse::Kms(key) => Encryption::Kms(key.clone()),
        Sse::Customer(source) => Encryption::Customer(read(source)?),
    })
}

/// Reads a key. Neither what was read is shown, nor where it was looked for: that may be the key itself.
fn read(source: &KeySource) -> Result<CustomerKey, Error> {
    let missing = |what: String| {
        Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!(
            "{what}: name a file that holds the key, or a variable as in env:NAME; the key itself stands in no option \
             and in no configuration file"
        ))
    };
    let content = match source {
        KeySource::File(path) => {
            let mut content = Vec::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(MAX_KEY_FILE).read_to_end(&mut content))
                .map_err(|error| missing(format!("the file of the customer key cannot be read ({error})")))?;
            content
        }
        KeySource::Variable(name) => std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| missing("the variable of the customer key is not set".to_owned()))?
            .into_encoded_bytes(),
    };
    CustomerKey::parse(&content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_taken_for_its_place_is_not_repeated() {
        let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let error = read(&key.parse().unwrap()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("0123456789") && shown.contains("env:NAME"), "{shown}");
    }

    #[test]
    fn a_key_comes_from_a_file_and_what_is_no_key_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        let customer = Sse::Customer(KeySource::File(path.clone()));
        assert_eq!(encryption(&customer).unwrap(), Encryption::Customer(CustomerKey::new(&[7; 32])));
        std::fs::write(&path, "s3cret and short").unwrap();
        let error = encryption(&customer).unwrap_err();
        assert!(
            error.to_string().contains("32 bytes") && !format!("{error:?}").contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_keeps_neither_class_nor_encryption() {
        let place = Place::Directory { path: "/srv".into(), relaxed: false };
        let asked = [
            args::Storing { storage_class: Some("STANDARD_IA".to_owned()), ..args::Storing::default() },
            args::Storing { sse: Some(Sse::Server), ..args::Storing::default() },
            args::Storing {
                customer_key: Some(KeySource::Variable("K".to_owned())),
                ..args::Storing::default()
            },
        ];
        for storing in &asked {
            let refused = stored(place.clone(), Side::Target, storing).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            assert_eq!(
                stored(place.clone(), Side::Source, storing).unwrap(),
                place,
                "said of the target alone"
            );
        }
        let source = args::Storing {
            source_customer_key: Some(KeySource::Variable("K".to_owned())),
            ..args::Storing::default()
        };
        assert!(stored(place.clone(), Side::Source, &source).is_err());
        let bucket = stored(Place::S3(crate::config::S3::default()), Side::Target, &asked[0]).unwrap();
        assert_eq!(
            shown(&bucket).collect::<Vec<_>>(),
            [("storage-class".to_owned(), "STANDARD_IA".to_owned())]
        );
    }
}
