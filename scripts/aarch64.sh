#!/usr/bin/env bash
# Builds the tests for aarch64 and runs them under qemu's user mode, once for each kind of CPU that
# the kernels tell apart. Installs Debian's cross compiler, for its linker, and Rust's target.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

install() {
  local root=() packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
  ((EUID == 0)) || root=(sudo)
  if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  fi
  rustup --quiet target add "$target"
}

# on CPU TABLE ARGUMENTS...: cargo test on a CPU of this model, which gets this table of kernels.
on() {
  local cpu=$1 table=$2 start=$SECONDS
  shift 2
  echo "-- $cpu: $*"
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu" \
    PITH_KERNELS=$table cargo test --quiet --target "$target" "$@"
  echo "-- $cpu: $((SECONDS - start)) s"
}

install
on cortex-a53 neon -p pith --lib --test kernel --test attention --test logits -- --include-ignored
on neoverse-n1 dotprod -p pith --lib --test kernel --test attention -- --include-ignored
on max i8mm -p pith --lib --test kernel --test attention -- --include-ignored
