#!/usr/bin/env bash
# Runs the kernels' tests on CPUs that this x86-64 machine isn't, under qemu's user mode: one of each
# kind that the kernels tell apart below AVX2. On Debian it installs qemu, the cross compiler (for
# its linker and its C library) and Rust's target.
#
#   scripts/emulate.sh [--models]    whole models and the C library too: minutes more
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
target=aarch64-unknown-linux-gnu
models=${1:-}
kernels=(--test kernel --test attention --test logits)

install() {
  local root=() packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
  ((EUID == 0)) || root=(sudo)
  if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  fi
}

# on CPU TABLE ARGUMENTS...: cargo test on a CPU of this model, which gets this table of kernels.
on() {
  local cpu=$1 table=$2 start=$SECONDS
  shift 2
  echo "-- $cpu, $table: $*"
  export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64 -cpu $cpu"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu"
  PITH_KERNELS=$table cargo test --quiet "$@" -- --include-ignored
  echo "-- $cpu: $((SECONDS - start)) s"
}

aarch64() {
  on "$1" "$2" --target "$target" -p pith "${kernels[@]}"
  # Against PyTorch.
  [[ $models != --models ]] || on "$1" "$2" --target "$target" -p pith-convert --test families pytorchs_logits
}

install
# The build of this machine, on a CPU that has SSE3, but neither SSSE3 nor anything later.
# With the workspace's features: what its tests have built isn't built again.
on Opteron_G1 sse2 --workspace --exclude yardstick "${kernels[@]}"
if ! rustup --quiet target add "$target"; then
  echo "!! aarch64 is NOT TESTED here: rustup could not fetch $target" >&2
  exit
fi
# Without debug information it is built in two thirds of the time.
export CARGO_PROFILE_DEV_DEBUG=0
cargo clippy --quiet --target "$target" -p pith -- -D warnings
aarch64 cortex-a53 neon
aarch64 neoverse-n1 dotprod
aarch64 max i8mm
# The C library in a C program writes what this machine's command does.
c_program() {
  local work
  work=$(mktemp -d)
  # As the tests of the workspace have built it.
  env -u CARGO_PROFILE_DEV_DEBUG cargo build --quiet --workspace --exclude yardstick --bin pith
  target/debug/pith convert models/demo -o "$work/demo.gguf" --type q4_k --no-check >/dev/null
  target/debug/pith run "$work/demo.gguf" --prompt 'Once upon a time' --temp 0 -n 32 >"$work/here" 2>/dev/null
  cargo build --quiet --target "$target" -p pith-capi
  aarch64-linux-gnu-gcc -std=c99 -O2 -Icapi/include examples/c/generate.c "target/$target/debug/libpith_c.a" \
    -lgcc_s -lpthread -lm -ldl -o "$work/generate"
  qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu "$work/generate" "$work/demo.gguf" 'Once upon a time' 32 >"$work/there"
  diff "$work/here" "$work/there"
  echo "-- a C program on aarch64: the same text"
  rm -rf "$work"
}
[[ $models == --models ]] || exit 0
c_program
# This CPU has all tables: models cut in many ways have the same bits with each.
on max i8mm --target "$target" -p pith-convert --test families
