#!/usr/bin/env bash
# Builds the tests for aarch64 and runs them under qemu's user mode, once for each kind of CPU that
# the kernels tell apart. On Debian 12 it installs what it needs, beside any other Rust toolchain.
#
#   scripts/aarch64.sh          everything
#   scripts/aarch64.sh quick    the kernels' contract only
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
work=${CARGO_TARGET_DIR:-target}/aarch64
mkdir -p "$work"
work=$(realpath "$work")

install() {
  local root=()
  local packages=(rustc-web cargo-web gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)
  ((EUID == 0)) || root=(sudo)
  if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends \
      "${packages[@]}" >"$work/install.log"
  fi
  # The standard library for aarch64 is a package of another architecture, which the system needn't
  # know: package lists of our own name it, and it is unpacked here.
  local version std=$work/std
  version=$(dpkg-query -W -f '${Version}' rustc-web)
  [[ $(cat "$std/version" 2>/dev/null) == "$version" ]] && return
  rm -rf "$std"
  mkdir -p "$std/lists/partial" "$std/cache/archives/partial"
  (
    cd "$std"
    options=(-qq -o APT::Sandbox::User=root -o APT::Architectures::=amd64
      -o APT::Architectures::=arm64 -o "Dir::State::lists=$std/lists" -o "Dir::Cache=$std/cache")
    apt-get "${options[@]}" update
    apt-get "${options[@]}" download "libstd-rust-web-dev:arm64=$version"
    dpkg -x ./*.deb .
    rm -rf ./*.deb lists cache
    echo "$version" >version
  )
}

# tests CPU ARGUMENTS...: on a CPU that has the features of this model.
tests() {
  local cpu=$1
  shift
  echo "-- aarch64, $cpu: $*"
  local start=$SECONDS
  env RUSTC=/usr/bin/rustc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc-12 \
    CARGO_TARGET_DIR="$work" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc-12 \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-L $work/std/usr/lib/rustlib/$target/lib" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $cpu -L /usr/aarch64-linux-gnu" \
    /usr/bin/cargo test --quiet --target "$target" "$@"
  echo "-- aarch64, $cpu: $((SECONDS - start)) s"
}

install
tests max -p pith --test kernel
