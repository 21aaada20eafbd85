#!/usr/bin/env bash
# What shipped files take: prints a table, and what each part costs, in bytes after `strip`.
# scripts/sizes.sh [--beside-llama] [--markdown FILE]
#
# --beside-llama also links scripts/sizes/llama.c with llama.cpp as the crate llama-cpp-sys-2 builds it for the yardstick (needs
# cmake and g++): static libraries, -O3 -march=native, so kernels for this machine's CPU alone. Both C programs are linked alike, and
# pith is also built for this machine's CPU alone.
set -euo pipefail
cd "$(dirname "$0")/.."

beside_llama=0 markdown=
while (($# > 0)); do
  case $1 in
    --beside-llama) beside_llama=1 ;;
    --markdown) markdown=${2:?--markdown wants a file}; shift ;;
    *) echo "usage: scripts/sizes.sh [--beside-llama] [--markdown FILE]" >&2; exit 2 ;;
  esac
  shift
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Symbols are kept, and stripped from copies: they say what a part costs.
export CARGO_PROFILE_DIST_STRIP=none CARGO_PROFILE_DIST_ABORT_STRIP=none
export RUSTFLAGS="-C symbol-mangling-version=v0"
target=${CARGO_TARGET_DIR:-target}/sizes

build() { # build PROFILE CARGO_ARGUMENTS...
  cargo build --quiet --target-dir "$target" --profile "$@"
}

stripped() { # stripped FILE -> bytes
  strip -o "$work/stripped" "$1"
  stat -c %s "$work/stripped"
}

row() { # row NAME BYTES
  printf '| %s | %d.%02d MB |\n' "$1" $(($2 / 1000000)) $(($2 / 10000 % 100))
}

link() { # link OUT COMPILER SOURCE INCLUDE LIBRARIES...
  local out=$1 compiler=$2 source=$3 include=$4
  shift 4
  gcc -O2 -Wall -I"$include" -c "$source" -o "$out.o"
  "$compiler" "$out.o" -o "$out" -static-libgcc -Wl,--gc-sections "$@" -lpthread -ldl -lm
}

table() {
  echo '| file, stripped | size |'
  echo '|---|---|'
  row '`pith`, the runtime only (`--no-default-features`)' "$(stripped "$work/runtime")"
  row '`pith`, all commands' "$(stripped "$work/full")"
  row '`libpith.so`' "$(stripped "$work/pith.so")"
  row 'a C program, `libpith.a` in it' "$(stripped "$work/pith")"
  ((beside_llama == 0)) && return
  row '`libpith.so` for this CPU alone' "$(stripped "$work/native.so")"
  row 'the C program for this CPU alone' "$(stripped "$work/native")"
  row 'llama.cpp and ggml for this CPU as one library' "$(stripped "$work/llama.so")"
  row 'the same program with llama.cpp, libstdc++ in it' "$(stripped "$work/llama")"
  row 'the same without libstdc++' "$(stripped "$work/llama-shared")"
}

parts() { # parts NAME FILE
  printf '\n| part of %s | KB |\n|---|---|\n' "$1"
  python3 scripts/sizes/parts.py "$2"
}

build dist-abort -p pith-cli --no-default-features
cp "$target/dist-abort/pith" "$work/runtime"
build dist -p pith-cli
cp "$target/dist/pith" "$work/full"
c_library() { # c_library NAME
  build dist -p pith-capi
  cp "$target/dist/libpith_c.so" "$work/$1.so"
  link "$work/$1" gcc scripts/sizes/pith.c capi/include "$target/dist/libpith_c.a"
}

c_library pith

if ((beside_llama)); then
  RUSTFLAGS="$RUSTFLAGS -C target-cpu=native" c_library native
  (cd yardstick && env -u RUSTFLAGS cargo build --quiet --release)
  out=$(find target/yardstick/release/build -path '*/llama-cpp-sys-2-*/out/lib' | head -n 1)
  libraries=(-Wl,--start-group "$out"/lib{llama,ggml,ggml-base,ggml-cpu}.a -Wl,--end-group)
  g++ -shared -o "$work/llama.so" -Wl,--whole-archive "$out"/lib{llama,ggml,ggml-base,ggml-cpu}.a -Wl,--no-whole-archive
  link "$work/llama" g++ scripts/sizes/llama.c "$out/../include" -static-libstdc++ "${libraries[@]}"
  link "$work/llama-shared" g++ scripts/sizes/llama.c "$out/../include" "${libraries[@]}"
fi

{
  table
  parts '`pith`, the runtime only' "$work/runtime"
  parts 'the C program' "$work/pith"
} | tee ${markdown:+"$markdown"}
