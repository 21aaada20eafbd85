#!/usr/bin/env bash
# pith as a WebAssembly module (wasm/), with vectors and without: what it computes is held against what this
# machine computes itself, bit for bit, in Node, in wasmtime and, as a page, in Chromium; the kernels' tests
# run as modules too. Installs Rust's targets, wasmtime (in a folder that goes again) and, on Debian, Chromium.
#
#   scripts/wasm.sh          tests
#   scripts/wasm.sh serve    the page with the demo model, on port 8000 of this machine
set -euo pipefail
cd "$(dirname "$0")/.."

target=wasm32-unknown-unknown
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prompt='Once upon a time'
n=48

not_tested() {
  echo "!! $1 is NOT TESTED here: $2" >&2
}

# module NAME FLAGS: the module, compiled with these flags, as NAME.
module() {
  RUSTFLAGS=$2 cargo build --quiet --profile wasm --target "$target" -p pith-wasm
  cp "target/$target/wasm/pith_wasm.wasm" "$work/$1.wasm"
  echo "-- $1: $(stat -c %s "$work/$1.wasm") bytes"
}

# same WHAT EXPECTED COMMAND...: what a command prints is what is in a file.
same() {
  local what=$1 expected=$2
  shift 2
  "$@" >"$work/got"
  if ! diff "$expected" "$work/got"; then
    echo "$what differs" >&2
    exit 1
  fi
  echo "-- $what: the same"
}

chromium() {
  if ! command -v chromium >/dev/null; then
    local root=()
    ((EUID == 0)) || root=(sudo)
    "${root[@]}" apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive "${root[@]}" \
      apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1
  fi
  command -v chromium
}

if ! rustup --quiet target add "$target"; then
  not_tested WebAssembly "rustup could not fetch $target"
  exit
fi
module simd128 '-C target-feature=+simd128'
# The same features as the tests of the workspace have: nothing is built again.
cargo build --quiet --workspace --exclude yardstick --bin pith --example fingerprint
for format in q8_0 q4_0 q4_k f16; do
  target/debug/pith convert models/demo -o "$work/$format.gguf" --type "$format" --no-check >/dev/null
done

mkdir "$work/page"
cp wasm/index.html wasm/pith.js "$work/page"
cp "$work/simd128.wasm" "$work/page/pith_wasm.wasm"
cp "$work/q8_0.gguf" "$work/page/demo.gguf"
if [[ ${1:-} == serve ]]; then
  echo 'http://127.0.0.1:8000/?model=demo.gguf'
  python3 -m http.server --bind 127.0.0.1 --directory "$work/page" 8000
  exit
fi
module scalar ''

if python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check wasmtime==50.0.1; then
  wasmtime=yes
else
  not_tested wasmtime 'pip could not install it'
fi
for format in q8_0 q4_0 q4_k f16; do
  model=$work/$format.gguf
  target/debug/examples/fingerprint "$model" "$prompt" "$n" >"$work/$format"
  # The command says the same text.
  tail -n +2 "$work/$format" >"$work/text"
  same "$format, pith run" "$work/text" \
    target/debug/pith run "$model" --prompt "$prompt" --temp 0 -n "$n" 2>/dev/null
  for kernels in simd128 scalar; do
    same "$format, $kernels in Node" "$work/$format" \
      node wasm/tests/node.mjs "$work/$kernels.wasm" "$model" "$prompt" "$n"
    [[ -z ${wasmtime:-} ]] || same "$format, $kernels in wasmtime" "$work/$format" \
      "$work/venv/bin/python" wasm/tests/wasmtime_run.py "$work/$kernels.wasm" "$model" "$prompt" "$n"
  done
done

if browser=$(chromium); then
  tail -n +2 "$work/q8_0" >"$work/text"
  same 'the page in Chromium' "$work/text" \
    python3 wasm/tests/page.py "$browser" "$work/page" demo.gguf "$prompt" "$n"
else
  not_tested 'the page in Chromium' 'it could not be installed'
fi
