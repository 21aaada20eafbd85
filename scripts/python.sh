#!/usr/bin/env bash
# Builds the Python package's wheel, installs it into an empty environment, and there runs the lines of its
# README and its tests. Needs python3 with venv; what else it needs comes from PyPI. PITH_CLI may name the
# command `pith`, if it is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

maturin=1.16.0 pytest=9.2.0 numpy=2.4.6 mypy=2.4.1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { # install ENVIRONMENT PACKAGE...
  local into=$1
  shift
  "$work/$into/bin/pip" install --quiet --disable-pip-version-check "$@"
}

cargo fmt --manifest-path python/Cargo.toml --check
cargo clippy --quiet --locked --manifest-path python/Cargo.toml -- -D warnings

python3 -m venv "$work/build"
install build "maturin==$maturin"
"$work/build/bin/maturin" build --quiet --release --locked --manifest-path python/Cargo.toml --out "$work/wheels"
ls -l "$work/wheels"

# Beside whose texts the package's are held.
if [[ -z ${PITH_CLI:-} ]]; then
  cargo build --quiet --release
  PITH_CLI=$root/target/release/pith
fi
export PITH_CLI PITH_DEMO=$work/demo.gguf
"$PITH_CLI" convert models/demo -o "$PITH_DEMO"

python3 -m venv "$work/clean"
install clean "numpy==$numpy" "$work"/wheels/pith-*.whl
# The lines of the README, as somebody would run them who has the wheel and nothing else.
awk '/^```python/ { inside = 1; next } /^```/ { inside = 0 } inside' python/README.md >"$work/readme.py"
(cd "$work" && clean/bin/python readme.py)

install clean "pytest==$pytest" "mypy==$mypy"
# Not from python/, whose folders Python would take for the package.
cd "$work"
clean/bin/python "$root/python/tests/typed.py" "$PITH_DEMO"
clean/bin/mypy --config-file "$root/python/pyproject.toml" --cache-dir "$work/mypy" "$root/python/tests/typed.py"
# The stubs are those of the package: the module inside it has the same names.
clean/bin/stubtest --mypy-config-file "$root/python/pyproject.toml" --allowlist <(echo pith.pith) pith
clean/bin/pytest -c "$root/python/pyproject.toml" -p no:cacheprovider "$root/python/tests"
