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
gate: fmt lint core deny test doc instructions first-command test-clients units image

# Formatting, checked
fmt:
    cargo fmt --all --check

# Clippy over everything, ONNX Runtime's engine among it; warnings are errors
lint:
    cargo clippy {{ cargo_flags }} --features onnxruntime --all-targets -- -D warnings

# The core compiles alone: no server, no engine, no training code; and the server without TLS
core:
    cargo clippy --release --lib --no-default-features -- -D warnings
    cargo clippy --release --lib --no-default-features --features serve -- -D warnings

# Licences, banned and unknown sources of dependencies
deny:
    cargo deny --locked check bans licenses sources

# Every Rust test: the same line as in the README
test *filter:
    cargo test {{ cargo_flags }} {{ filter }}

# The engines' tests on ONNX Runtime too; its library is the one of the Python package, or SORDINO_ONNXRUNTIME
test-onnxruntime:
    SORDINO_ONNXRUNTIME="${SORDINO_ONNXRUNTIME:-$({{ python }} -c 'import glob, onnxruntime, os; print(glob.glob(os.path.dirname(onnxruntime.__file__) + "/capi/libonnxruntime.so.*")[0])')}" \
        cargo test {{ cargo_flags }} --features onnxruntime --lib engine::

# The API's pages, broken links are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc {{ cargo_flags }} --no-deps

# The README's first command and its curl example
first-command:
    .ci/first-command

# Python clients (tritonclient, KServe, ONNX Runtime) against a running server
test-clients:
    cargo build {{ cargo_flags }}
    SORDINO_BIN="${CARGO_TARGET_DIR:-target}/release/sordino" {{ python }} -m pytest -q tests/clients --ignore tests/clients/triton_grpc
    SORDINO_BIN="${CARGO_TARGET_DIR:-target}/release/sordino" {{ python }} -m pytest -q tests/clients/triton_grpc

# The systemd unit, its syntax and its exposure
units:
    .ci/units

# The static binary and its image, built and run (needs buildah)
image:
    .ci/image

# The paper's tables 1 to 4 and figures 1 to 3 (and the same on Location): `just paper-a table2 --tier ci`, `just paper-a
# table4`, `just paper-a fig1 --table location`; see docs/evidence/paper-a
paper-a what *options:
    cargo build {{ cargo_flags }}
    PATH="${CARGO_TARGET_DIR:-target}/release:$PATH" {{ python }} \
        docs/evidence/paper-a/{{ if what =~ '^(table4|fig[123])$' { "figures.py" } else { "run.py" } }} {{ what }} {{ options }}

# Audits of the bundled model and of the lab's evidence models, written to docs/evidence/audits
audits *options:
    cargo build {{ cargo_flags }}
    PATH="${CARGO_TARGET_DIR:-target}/release:$PATH" {{ python }} docs/evidence/audits/run.py {{ options }}

# The CS2980 report's table 1, done honestly: `just paper-b table1 --tier ci`; see docs/evidence/paper-b
paper-b table *options:
    cargo build {{ cargo_flags }}
    PATH="${CARGO_TARGET_DIR:-target}/release:$PATH" {{ python }} docs/evidence/paper-b/run.py {{ table }} {{ options }}

# Fuzz every decoder for so many seconds each (needs cargo-fuzz and a nightly toolchain)
fuzz seconds="30" *targets:
    .ci/fuzz {{ seconds }} {{ targets }}

# Criterion benchmarks of the defence
bench *args:
    cargo bench --features lab --bench defence -- {{ args }}

# End-to-end latency beside bare tract and a bare echo; writes benches/runs/
bench-e2e *args:
    cargo bench --features lab --bench e2e -- {{ args }}

# Sordino beside Triton, MLServer, KServe, FastAPI, furnace-server, nginx, HAProxy and Envoy, those that are installed:
# docs/latency.md says how. `just bench-peers --out benches/runs/DATE-peers`
bench-peers *args:
    cargo build {{ cargo_flags }} --bin sordino
    {{ python }} benches/peers/run.py --sordino "${CARGO_TARGET_DIR:-target}/release/sordino" \
        --bare "$(.ci/bench-program bare)" {{ args }}

# Instructions that decode, defend and encode take, against a kept count (needs valgrind, and says so without)
instructions *args:
    {{ python }} benches/instructions/count.py "$(.ci/bench-program instructions)" {{ args }}

# Training steps beside PyTorch's (needs a python3 with torch); writes benches/runs/
bench-steps *args:
    cargo build {{ cargo_flags }}
    {{ python }} benches/steps/run.py --sordino "${CARGO_TARGET_DIR:-target}/release/sordino" {{ args }}

# `centroids build` beside bare tract; see benches/centroids.rs
bench-centroids *args:
    cargo bench --features lab --bench centroids -- {{ args }}

# The lab on Vulkan, for real: what a network learns and its centroids, beside the processor. A driver in software does
# (Debian: libvulkan1, mesa-vulkan-drivers). Long to build, and a driver in software compiles its kernels for minutes
vulkan-check:
    cargo build --release --features vulkan
    {{ python }} docs/evidence/gpu/check.py --sordino "${CARGO_TARGET_DIR:-target}/release/sordino" --device vulkan \
        --only devices,parity,centroids --minutes 120 --work target/vulkan-check --no-page

# One binary for a machine with an NVIDIA GPU and no Rust: target/gpu/sordino, at most 64 MiB
gpu-binary:
    cargo build --release --features vulkan,cuda
    mkdir -p target/gpu
    strip -o target/gpu/sordino "${CARGO_TARGET_DIR:-target}/release/sordino"
    test "$(stat -c %s target/gpu/sordino)" -le 67108864

# On that machine, again and again until all is done: parity, speed, a bank, table 3; writes docs/evidence/gpu.md
gpu-check *args:
    {{ python }} docs/evidence/gpu/check.py {{ args }}

# Attack the bundled model; see `sordino audit --help`
audit *args:
    cargo run {{ cargo_flags }} -- audit {{ args }}

# The Rust of the gRPC protocol again, after its .proto was changed
proto:
    cargo run --release --quiet --manifest-path tools/proto/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/proto"
    cargo fmt --all

# Serve the bundled classifier
serve *args:
    cargo run --release -- serve {{ args }}
