# Lists the recipes.
default:
    @just --list

# Everything that must hold before a change goes in; CI runs exactly this.
check:
    .ci/run

# All tests, or those the arguments of `cargo nextest run` choose; installs what they need.
test *arguments:
    tests/run {{arguments}}

# The migrator beside its peers and the floor; without arguments writes benches/RESULTS.md.
compare *arguments:
    benches/compare/run {{arguments}}

# Formats the code.
fmt:
    cargo fmt --all

# Builds the documentation.
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace --all-features

# Licences and sources of the dependencies.
deny:
    cargo deny check bans licenses sources
