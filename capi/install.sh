#!/bin/sh
# Builds the C library and installs it: include/pith.h, lib/libpith.a, lib/libpith.so,
# lib/pkgconfig/pith.pc.
#
#   capi/install.sh [--prefix DIR]   DIR is /usr/local unless it is given
#
# DESTDIR, where it is set, goes before the prefix of every file that is written.
set -eu

prefix=/usr/local
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix wants a folder}; shift 2 ;;
        --prefix=*) prefix=${1#--prefix=}; shift ;;
        *) echo "usage: capi/install.sh [--prefix DIR]" >&2; exit 2 ;;
    esac
done
mkdir -p "${DESTDIR:-}$prefix"
case $prefix in
    /*) ;;
    *) prefix=$(cd "${DESTDIR:-}$prefix" && pwd) ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
cargo build --release -p pith-capi
built=${CARGO_TARGET_DIR:-target}/release

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# What a static link needs beside it (`rustc --print native-static-libs`).
case $(uname -s) in
    Darwin) native='-lSystem -liconv' ;;
    *) native='-lgcc_s -lpthread -lm -ldl' ;;
esac

to=${DESTDIR:-}$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig"
cp capi/include/pith.h "$to/include/pith.h"
cp "$built/libpith_c.a" "$to/lib/libpith.a"
if [ -f "$built/libpith_c.dylib" ]; then
    cp "$built/libpith_c.dylib" "$to/lib/libpith.1.dylib"
    ln -sf libpith.1.dylib "$to/lib/libpith.dylib"
else
    # By its soname (build.rs), and by the name that a linker looks for.
    cp "$built/libpith_c.so" "$to/lib/libpith.so.1"
    ln -sf libpith.so.1 "$to/lib/libpith.so"
fi
cat > "$to/lib/pkgconfig/pith.pc" <<PC
prefix=$prefix
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: pith
Description: Runs a GPT from one GGUF file
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lpith
Libs.private: $native
PC
echo "installed pith $version in $to"
