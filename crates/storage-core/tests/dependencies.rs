//! What each feature weighs: who needs a directory alone does not compile the SDK of a cloud.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates that come with one feature and with no other.
const BROUGHT: &[(&str, &[&str])] = &[
    ("s3", &["aws-sdk-s3", "aws-config", "aws-smithy-runtime", "aws-sigv4", "hyper-rustls", "rustls"]),
    ("cache", &["moka"]),
    ("fallback", &["rusqlite", "libsqlite3-sys"]),
    ("http", &["axum"]),
    ("object-store", &["object_store"]),
];

/// Returns the names of all crates that a build with these features compiles for the library itself.
fn crates(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "storage-core", "--no-default-features"])
        .args(["--features", features, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are ASCII");
    names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn a_feature_brings_its_own_dependencies_and_no_other_does() {
    for features in ["", "local", "testkit", "s3", "cache", "fallback", "http", "object-store"] {
        let crates = crates(features);
        assert!(crates.contains("storage-core") && crates.contains("tokio"), "{crates:?}");
        for (feature, brought) in BROUGHT {
            for name in *brought {
                assert_eq!(
                    crates.contains(*name),
                    features == *feature,
                    "{name} in a build with the features \"{features}\""
                );
            }
        }
        if !["s3", "http"].contains(&features) {
            let vendor: Vec<_> =
                crates.iter().filter(|name| name.starts_with("aws-") || name.starts_with("hyper")).collect();
            assert!(vendor.is_empty(), "\"{features}\" brings {vendor:?}");
        }
    }
}
