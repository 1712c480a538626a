//! S3 against real servers: Garage (credentials and checksums, no preconditions) and moto (preconditions and
//! tags, no checksums). Between them every branch of what a server can or cannot do is taken.

#![cfg(feature = "s3")]
#![expect(clippy::print_stderr, reason = "seeds, cases and what was found are for whoever reads a failure")]

#[path = "s3/common.rs"]
mod common;
#[path = "s3/embedded.rs"]
mod embedded;
#[path = "s3/encryption.rs"]
mod encryption;
#[path = "s3/faults.rs"]
mod faults;
#[path = "s3/keys.rs"]
mod keys;
#[path = "s3/moto.rs"]
mod moto;
#[path = "s3/objects.rs"]
mod objects;
#[path = "s3/opening.rs"]
mod opening;
#[path = "s3/parts.rs"]
mod parts;

use common::fixture_on_garage;

storage_core::conformance!(garage_keeps_its_promises, fixture_on_garage);
storage_core::conformance!(the_embedded_server_keeps_its_promises, embedded::fixture);
storage_core::conformance!(garage_keeps_its_promises_with_a_customer_key, encryption::fixture_with_a_key);
