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

# A million small files: memory and time of every step; with `--results benches/MILLION.md` writes the table.
million *arguments:
    benches/million/run {{arguments}}

# The daemon for so many minutes, while files come and go and the server dies.
soak minutes="30":
    tests/soak {{minutes}}

# The Debian package, what a clean machine makes of it, and what systemd does.
deb:
    packaging/build-deb
    set -e; for check in deb boot; do "packaging/check-$check" "$(ls -t "$(cargo metadata --no-deps --offline --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')"/debian/*.deb | head -n 1)"; done

# Formats the code.
fmt:
    cargo fmt --all

# Builds the documentation.
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace --all-features

# Licences and sources of the dependencies.
deny:
    cargo deny check bans licenses sources
