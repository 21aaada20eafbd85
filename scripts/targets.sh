#!/usr/bin/env bash
# What builds beside this machine's own: the runtime without its features, here and for WebAssembly, and the
# command as one static file, by musl, which must say what the one of this machine says. Fetches Rust's
# targets. aarch64 is emulate.sh's, and what WebAssembly computes is wasm.sh's.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# has TARGET WHAT: whether a target's standard library is here or can be fetched.
has() {
  rustup --quiet target add "$1" && return
  echo "!! $2 is NOT TESTED here: rustup could not fetch $1" >&2
  return 1
}

# says PITH: what a command writes behind a prompt.
says() {
  "$1" run "$work/demo.gguf" --prompt 'Once upon a time' --temp 0 -n 48 2>/dev/null
}

echo "-- the runtime without features"
tree=$(cargo tree --quiet -p pith --no-default-features -e normal --prefix none)
if grep -E '^(rayon|memmap2|libc) ' <<<"$tree"; then
  echo "a feature that is off still brings these" >&2
  exit 1
fi
cargo clippy --quiet -p pith --no-default-features -- -D warnings
cargo test --quiet -p pith --no-default-features --lib

if has wasm32-unknown-unknown 'the runtime for WebAssembly'; then
  for flags in '' '-C target-feature=+simd128'; do
    echo "-- the runtime for WebAssembly $flags"
    RUSTFLAGS=$flags cargo clippy --quiet --target wasm32-unknown-unknown -p pith --no-default-features -- -D warnings
  done
fi

if has x86_64-unknown-linux-musl 'the static command'; then
  # The runtime only: it takes a quarter of the time, and the features convert and jobs build as well. Parquet's zstd is C, and would want
  # a C compiler for musl.
  CARGO_PROFILE_RELEASE_STRIP=true \
    cargo build --quiet --release --target x86_64-unknown-linux-musl -p pith-cli --no-default-features
  static=target/x86_64-unknown-linux-musl/release/pith
  echo "-- the static command: $(stat -c %s "$static") bytes"
  if readelf --program-headers "$static" | grep INTERP; then
    echo "$static isn't static" >&2
    exit 1
  fi
  cargo build --quiet --workspace --exclude yardstick --bin pith
  target/debug/pith convert models/demo -o "$work/demo.gguf" --type q4_k >/dev/null
  says "$static" >"$work/static"
  says target/debug/pith | diff "$work/static" -
fi
