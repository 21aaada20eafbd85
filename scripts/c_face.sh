#!/usr/bin/env bash
# Proves the C face as C and C++ programs see it: the examples with gcc and g++, static and shared, print
# what the command prints; they and the tests in capi/tests/c are clean under valgrind and the sanitizers;
# the shared library exports the header's functions and still runs clients of the first header; memory is
# what was planned. On Debian it installs what it needs.
#
#   scripts/c_face.sh [MODEL.gguf...]    the planned memory of these models too
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pith=$work/pith # where the library is installed
tests=capi/tests/c
C99=(gcc -std=c99 -pedantic -Wall -Wextra -Werror)
CXX11=(g++ -std=c++11 -pedantic -Wall -Wextra -Werror)
SANITIZE=(-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
static=("$pith/lib/libpith.a" -lgcc_s -lpthread -lm -ldl) # as pkg-config --libs --static has them

# Memory that no machine has is refused, as a system does it.
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1

stage() { # stage NAME COMMAND...
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "-- $name: $((SECONDS - start)) s"
}

install() {
  local root=() missing=()
  ((EUID == 0)) || root=(sudo)
  for package in gcc g++ make binutils pkg-config valgrind; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build() {
  cargo build --quiet --release -p pith-cli
  capi/install.sh --prefix "$pith"
}

models() {
  python3 $tests/make_models.py models/demo "$work"
  local convert=(target/release/pith convert --no-check)
  "${convert[@]}" models/demo -o "$work/demo.gguf" >/dev/null
  "${convert[@]}" "$work/classifier" -o "$work/classifier.gguf" >/dev/null
  "${convert[@]}" "$work/adapter" --base models/demo -o "$work/adapter.gguf" >/dev/null
  printf '%s\n' "a good day" "the ship" "He was not at all pleased" >"$work/words.txt"
}

# same WHAT FILE FILE: both have the same bytes.
same() {
  cmp "$2" "$3" || {
    echo "!! $1 prints other text than the command" >&2
    exit 1
  }
}

# What the command prints.
command_prints() {
  local run=target/release/pith
  "$run" run "$work/demo.gguf" --prompt "She was" -n 60 --temp 0 >"$work/greedy" 2>/dev/null
  "$run" run "$work/demo.gguf" --prompt "She was" -n 60 --temp 0.9 --seed 7 >"$work/drawn" 2>/dev/null
  "$run" classify "$work/classifier.gguf" "$work/words.txt" 2>/dev/null | rows >"$work/heads"
  "$run" classify "$work/demo.gguf" "$work/words.txt" --labels good,bad,ship --template '{{text}}' 2>/dev/null |
    rows >"$work/scores"
}

# Text, label and probability of each row of JSON, as examples/c/classify.c prints them.
rows() {
  python3 -c 'import json, sys
for line in sys.stdin:
    row = json.loads(line)
    print(row["text"], row["label"], "%.6f" % row["probability"], sep="\t")'
}

# examples FOLDER [WRAPPER...]: run, and compared with the command.
examples() {
  local at=$1
  shift
  for program in generate generate-cpp; do
    "$@" "$at/$program" "$work/demo.gguf" "She was" 60 >"$work/out"
    same "$program" "$work/greedy" "$work/out"
    "$@" "$at/$program" "$work/demo.gguf" "She was" 60 0.9 7 >"$work/out"
    same "$program, temperature 0.9" "$work/drawn" "$work/out"
  done
  "$@" "$at/classify" "$work/classifier.gguf" "$work/words.txt" >"$work/out"
  same "classify with a head" "$work/heads" "$work/out"
  "$@" "$at/classify" "$work/demo.gguf" "$work/words.txt" good bad ship >"$work/out"
  same "classify by scores" "$work/scores" "$work/out"
  "$@" "$at/embed" "$work/demo.gguf" <"$work/words.txt" >"$work/out" 2>"$work/err"
  [[ $(wc -l <"$work/out") == 3 && $(wc -w <"$work/out") == 768 ]]
  grep -q "MiB mapped; of a budget of 64.0" "$work/err"
}

# fails COMMAND...: with exit code 1 and a line that says why, and nothing on standard output.
fails() {
  local code=0
  "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
  [[ $code == 1 && ! -s $work/out && -s $work/err ]] || {
    echo "!! $* ended with $code" >&2
    exit 1
  }
}

gcc_and_gpp() {
  make --silent -C examples/c PITH="$pith" OUT="$work/shared" CFLAGS=-Werror CXXFLAGS=-Werror
  make --silent -C examples/c PITH="$pith" OUT="$work/static" STATIC=1 CFLAGS=-Werror CXXFLAGS=-Werror
  readelf -d "$work/shared/generate" | grep -q 'NEEDED.*libpith.so.1'
  if readelf -d "$work/static/generate" | grep libpith; then exit 1; fi
  # README's lines, and pkg-config's.
  gcc examples/c/generate.c -I"$pith/include" -L"$pith/lib" -lpith -o "$work/plain"
  LD_LIBRARY_PATH=$pith/lib "$work/plain" "$work/demo.gguf" "She was" 60 >"$work/out"
  same "generate by README's line" "$work/greedy" "$work/out"
  gcc examples/c/generate.c -I"$pith/include" "$pith/lib/libpith.a" -lm -o "$work/plain"
  "$work/plain" "$work/demo.gguf" "She was" 60 >"$work/out"
  same "generate by README's static line" "$work/greedy" "$work/out"
  local flags
  read -ra flags < <(PKG_CONFIG_PATH=$pith/lib/pkgconfig pkg-config --cflags --libs pith)
  gcc examples/c/generate.c "${flags[@]}" -o "$work/plain"
  LD_LIBRARY_PATH=$pith/lib "$work/plain" "$work/demo.gguf" "She was" 60 >"$work/out"
  same "generate by pkg-config" "$work/greedy" "$work/out"
  for kind in shared static; do
    examples "$work/$kind"
    fails "$work/$kind/generate" "$work/absent.gguf" "She was"
    fails "$work/$kind/generate-cpp" README.md "She was"
    fails "$work/$kind/embed" README.md
    fails "$work/$kind/classify" "$work/demo.gguf" "$work/words.txt"
  done
}

memcheck() {
  valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect,possible "$@"
}

under_valgrind() {
  examples "$work/static" memcheck
  test_program hostile -O1 -g
  memcheck "$work/hostile" "$work/demo.gguf" "$work/classifier.gguf"
  test_program damaged -O1 -g
  memcheck "$work/damaged" "$work/demo.gguf" 20
}

sanitized_examples() {
  local program
  mkdir -p "$work/sanitized"
  for program in generate classify embed; do
    "${C99[@]}" "${SANITIZE[@]}" -I"$pith/include" examples/c/$program.c -o "$work/sanitized/$program" "${static[@]}"
  done
  "${CXX11[@]}" "${SANITIZE[@]}" -I"$pith/include" examples/c/generate.cpp -o "$work/sanitized/generate-cpp" "${static[@]}"
  examples "$work/sanitized"
}

# test_program NAME [FLAG...]: builds a test, with the static library.
test_program() {
  local name=$1
  shift
  "${C99[@]}" -D_XOPEN_SOURCE=700 "$@" -I"$pith/include" $tests/"$name".c -o "$work/$name" "${static[@]}"
}

# quietly COMMAND...: nothing on standard error but what ASan says of memory that it refuses.
quietly() {
  local code=0
  "$@" 2>"$work/err" || code=$?
  if grep -v "AddressSanitizer failed to allocate" "$work/err" >&2 || ((code != 0)); then
    echo "!! $1 ended with $code, and printed this on standard error" >&2
    exit 1
  fi
}

hostile() {
  local flags name
  for flags in -O1 "${SANITIZE[*]}"; do
    read -ra flags <<<"$flags"
    for name in hostile damaged walk; do test_program $name "${flags[@]}"; done
    quietly "$work/hostile" "$work/demo.gguf" "$work/classifier.gguf"
    quietly "$work/damaged" "$work/demo.gguf" 1000
    quietly "$work/walk" "$work/demo.gguf" 5000
  done
}

out_of_memory() {
  local wrapped=malloc,calloc,realloc,posix_memalign,aligned_alloc,free,getenv,pthread_create,write,sigaction
  test_program oom -O1 "-Wl,--wrap=${wrapped//,/,--wrap=}"
  quietly "$work/oom" "$work/demo.gguf" 1
}

threads() {
  test_program threads -O1
  quietly "$work/threads" "$work/demo.gguf" 10000
  echo "   under ThreadSanitizer, which sees the C side only:"
  test_program threads -O1 -g -fsanitize=thread
  quietly "$work/threads" "$work/demo.gguf" 2000
}

# Declarations and constants of a header, one a line, without its structs' fields, which may grow.
declarations() {
  {
    gcc -E -P "$1" | tr -s ' \n' ' ' | sed 's/; */;\n/g' | grep -E '^ *(typedef [^{]*|.*pith_[a-z_]+\(.*\));$' | sed 's/^ *//'
    grep -oE 'PITH_[A-Z0-9_]+ = [0-9]+' "$1"
  } | LC_ALL=C sort
}

abi() {
  "${C99[@]}" -DFROZEN -c $tests/layout.c -o "$work/layout.o"
  "${C99[@]}" -I"$pith/include" -c $tests/layout.c -o "$work/layout.o"
  declarations $tests/pith_abi_1.h >"$work/first"
  declarations "$pith/include/pith.h" >"$work/now"
  (($(grep -c pith_ "$work/first") > 30))
  LC_ALL=C comm -23 "$work/first" "$work/now" >"$work/gone"
  if grep . "$work/gone"; then
    echo "!! the first header had these, the present one doesn't" >&2
    exit 1
  fi
  # The library may not be newer than its header says, nor export more.
  grep -oE '\bpith_[a-z_]+\(' "$pith/include/pith.h" | tr -d '(' | sort -u >"$work/declared"
  nm -D --defined-only "$pith/lib/libpith.so" | tee "$work/exported" | awk '{print $3}' | sort -u >"$work/names"
  diff "$work/declared" "$work/names"
  if awk '$2 != "T"' "$work/exported" | grep .; then
    echo "!! exported, and no functions" >&2
    exit 1
  fi
  (($(wc -l <"$work/declared") <= 30))
  "${C99[@]}" -O1 -I"$pith/include" $tests/abi_1.c -o "$work/abi_1" -L"$pith/lib" -lpith
  LD_LIBRARY_PATH=$pith/lib quietly "$work/abi_1" "$work/demo.gguf" "$work/classifier.gguf" "$work/adapter.gguf"
}

memory() {
  test_program memory -O1
  quietly "$work/memory" "$work/demo.gguf"
  for model in "$@"; do
    echo "   $(basename "$model"):"
    quietly "$work/memory" "$model" 512
  done
}

stage "packages" install
stage "build" build
stage "models" models
command_prints
stage "examples with gcc and g++" gcc_and_gpp
stage "hostile arguments, files and states; plain and sanitized" hostile
stage "examples sanitized" sanitized_examples
stage "out of memory" out_of_memory
stage "threads" threads
stage "interface of the first header" abi
stage "planned memory" memory "$@"
stage "valgrind" under_valgrind
