# The front door. CI runs these same recipes, so what is green here is green there.
#   pip install rust-just        gives `just`
# Everything is built with one profile and one feature set, so nothing is compiled twice.

cargo_flags := "--release --features lab"
python := env("SORDINO_PYTHON", "python3")
address := env("SORDINO_ADDRESS", "127.0.0.1:8000")

# Show the recipes
default:
    @just --list --unsorted

# The checks of a change, quickest first
gate: fmt lint core deny test doc first-command test-clients units image

# Formatting, checked
fmt:
    cargo fmt --all --check

# Clippy over everything, warnings are errors
lint:
    cargo clippy {{ cargo_flags }} --all-targets -- -D warnings

# The core compiles alone: no server, no engine, no training code
core:
    cargo check --release --lib --no-default-features

# Licences, banned and unknown sources of dependencies
deny:
    cargo deny --locked check bans licenses sources

# Every Rust test: the same line as in the README
test *filter:
    cargo test {{ cargo_flags }} {{ filter }}

# The API's pages, broken links are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc {{ cargo_flags }} --no-deps

# The README's first command and its curl example
first-command:
    .ci/first-command

# Python clients (tritonclient, KServe, ONNX Runtime) against a running server
test-clients:
    cargo build {{ cargo_flags }}
    SORDINO_BIN="${CARGO_TARGET_DIR:-target}/release/sordino" {{ python }} -m pytest -q tests/clients

# The systemd unit, its syntax and its exposure
units:
    .ci/units

# The static binary and its image, built and run (needs buildah)
image:
    .ci/image

# Fuzz every decoder for so many seconds each (needs cargo-fuzz and a nightly toolchain)
fuzz seconds="30":
    .ci/fuzz {{ seconds }}

# Criterion benchmarks of the defence
bench *args:
    cargo bench --features lab --bench defence -- {{ args }}

# End-to-end latency beside bare tract and a bare echo; writes benches/runs/
bench-e2e *args:
    cargo bench --features lab --bench e2e -- {{ args }}

# Attack the bundled model; see `sordino audit --help`
audit *args:
    cargo run {{ cargo_flags }} -- audit {{ args }}

# Serve the bundled classifier
serve *args:
    cargo run --release -- serve {{ args }}
