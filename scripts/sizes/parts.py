"""What the parts of a program with symbols take: parts.py PROGRAM prints markdown rows, in KB of 1000 bytes."""

import collections
import re
import subprocess
import sys

# The first that a symbol's name fits says which part it is of. Symbols are Rust's v0, which names the types that a
# function was compiled for; what was inlined counts for where it went.
PARTS = [
    (r"pith::kernel::avx512::", "kernels: AVX-512"),
    (r"pith::kernel::avxvnni::", "kernels: AVX-VNNI"),
    (r"pith::kernel::avx2::", "kernels: AVX2"),
    (r"pith::kernel::sse2::|pith::kernel::narrow::", "kernels: SSE2"),
    (r"pith::kernel::neon::", "kernels: NEON"),
    (r"pith::kernel::scalar::", "kernels: scalar"),
    (r"pith::kernel::", "kernels: shared"),
    (r"pith::quant::", "tensor formats"),
    (r"pith::tokenizer::|unicode_", "tokenizer, Unicode tables"),
    (r"pith_convert::", "converter"),
    (r"pith_jobs::", "jobs"),
    (r"pith_c::", "C face"),
    (r"pith::(batch|bytes|cache|classify|cpu|error|gguf|lora|memory|model|plan|sampler|session|stops|team|zeros)\b", "the rest of the runtime"),
    (r"pith::", "commands"),
    (r"clap|strsim|anstream|anstyle", "clap"),
    (r"indicatif|console::", "progress bars"),
    (r"parquet|arrow|zstd|ZSTD|HUF_|FSE_|snap|lz4", "Parquet, Arrow, codecs"),
    (r"minijinja", "minijinja"),
    (r"serde|zmij|itoa", "JSON"),
    (r"rayon|crossbeam", "rayon"),
    (r"gimli|addr2line|rustc_demangle|miniz_oxide|backtrace|object::", "std: backtraces"),
    (r"std::|core::|alloc::|hashbrown|compiler_builtins|std_detect|__rust|rust_", "std"),
]


def main():
    program = sys.argv[1]
    sizes = collections.Counter()
    seen = set()
    listing = subprocess.run(["nm", "--demangle", "--print-size", program], check=True, capture_output=True, text=True)
    for line in listing.stdout.splitlines():
        match = re.match(r"([0-9a-f]+) ([0-9a-f]+) (\w) (.*)", line)
        if not match or match[3] in "bB" or match[1] in seen:
            continue
        seen.add(match[1])
        fits = (name for pattern, name in PARTS if re.search(pattern, match[4]))
        sizes[next(fits, "other symbols")] += int(match[2], 16)

    sections = subprocess.run(["size", "-A", program], check=True, capture_output=True, text=True)
    named = dict(re.findall(r"^(\.[\w.]+)\s+(\d+)", sections.stdout, re.MULTILINE))
    in_file = {name: int(size) for name, size in named.items() if not re.match(r"\.(bss|tbss|debug|comment|note)", name)}
    unwinding = sum(in_file.pop(name, 0) for name in (".eh_frame", ".eh_frame_hdr", ".gcc_except_table"))
    loading = sum(in_file.pop(name, 0) for name in (".rela.dyn", ".rela.plt", ".dynsym", ".dynstr"))
    sizes["unwinding tables"] = unwinding
    sizes["relocations"] = loading
    sizes["texts and constants without a name"] = sum(in_file.values()) + unwinding + loading - sum(sizes.values())
    for name, size in sizes.most_common():
        print(f"| {name} | {size / 1000:.0f} |")


main()
