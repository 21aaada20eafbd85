"""Parquet files between pith and pyarrow.

    pip install pyarrow==22.0.0
    python jobs/tests/parquet_python.py fixtures jobs/tests/data

writes the files that `jobs/tests/parquet.rs` reads (the committed ones were made with pyarrow 22.0.0); and

    python jobs/tests/parquet_python.py make FOLDER
    PITH_PARQUET=FOLDER cargo test -p pith-jobs --features parquet --test parquet -- --ignored for_python
    python jobs/tests/parquet_python.py check FOLDER

has pith read files in all codecs and encodings and write them again, and compares values and types.
"""

import datetime as dt
import decimal
import json
import pathlib
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq

CODECS = ["none", "snappy", "gzip", "zstd", "lz4"]
UTC = dt.timezone.utc
BERLIN = "Europe/Berlin"
D = decimal.Decimal
NAN, INF = float("nan"), float("inf")

NOON = dt.datetime(2024, 2, 29, 12, 0, 0)
LAST = dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
FIRST = dt.datetime(1, 1, 1)

# Name, type, and three values. A fourth row is null.
COLUMNS = [
    ("text", pa.string(), ["", "Grüße, 世界 \U0001f989\n\"\\\0", "word"]),
    ("large", pa.large_string(), ["a", "b", ""]),
    ("view", pa.string_view(), ["short", "longer than the twelve bytes", ""]),
    ("category", pa.dictionary(pa.int32(), pa.string()), ["red", "blue", "red"]),
    ("truth", pa.bool_(), [True, False, True]),
    ("i8", pa.int8(), [-128, 127, 0]),
    ("i16", pa.int16(), [-32768, 32767, 0]),
    ("i32", pa.int32(), [-(2**31), 2**31 - 1, 0]),
    ("i64", pa.int64(), [-(2**63), 2**63 - 1, 2**53 + 1]),
    ("u8", pa.uint8(), [0, 255, 1]),
    ("u16", pa.uint16(), [0, 65535, 1]),
    ("u32", pa.uint32(), [0, 2**32 - 1, 1]),
    ("u64", pa.uint64(), [0, 2**64 - 1, 2**53 + 1]),
    ("f16", pa.float16(), [0.5, INF, -1.25]),
    ("f32", pa.float32(), [0.1, -INF, 1.5e30]),
    ("f64", pa.float64(), [0.1, 5e-324, -1.7976931348623157e308]),
    ("odd", pa.float64(), [NAN, INF, -0.0]),
    ("whole", pa.float64(), [1.0, 1e16, 123456.0]),
    ("money", pa.decimal128(9, 2), [D("0.10"), D("-1234567.89"), D("5.00")]),
    ("d128", pa.decimal128(38, 10), [D("1234567890123456789012345678.0123456789"), D("-0.0000000001"), D(0)]),
    ("d256", pa.decimal256(60, 5), [D(10**54) + D("0.00001"), D("-1.00000"), D(7)]),
    ("date", pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1969, 12, 31)]),
    ("t_ms", pa.time32("ms"), [dt.time(0), dt.time(23, 59, 59, 999000), dt.time(1, 2, 3)]),
    ("t_us", pa.time64("us"), [dt.time(0), dt.time(23, 59, 59, 999999), dt.time(1, 2, 3, 4)]),
    ("ts_ms", pa.timestamp("ms"), [NOON, dt.datetime(1969, 12, 31, 23, 59, 59, 999000), NOON]),
    ("ts_us", pa.timestamp("us"), [FIRST, LAST, NOON.replace(microsecond=1)]),
    ("ts_ns", pa.timestamp("ns"), [1, -1, 1709208000123456789]),
    ("utc", pa.timestamp("us", "UTC"), [NOON.replace(tzinfo=UTC), LAST.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC)]),
    ("berlin", pa.timestamp("ms", BERLIN), [NOON.replace(tzinfo=UTC)] * 3),
    ("bytes", pa.binary(), [b"", b"\x00\xff", b"abc"]),
    ("fixed", pa.binary(4), [b"\x00\x01\x02\x03", b"\xff" * 4, b"abcd"]),
    ("ints", pa.list_(pa.int64()), [[], [1, None, 2**63 - 1], [3]]),
    ("words", pa.list_(pa.string()), [["a\"b"], [None, ""], []]),
    ("floats", pa.list_(pa.list_(pa.float32())), [[[0.1], []], [], [[NAN], [1.0, None]]]),
    ("object", pa.struct([("a", pa.int32()), ("b", pa.string())]), [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 2, "b": ""}]),
    ("chat", pa.list_(pa.struct([("role", pa.string()), ("when", pa.timestamp("us", "UTC"))])),
     [[{"role": "user", "when": NOON.replace(tzinfo=UTC)}], [], [{"role": None, "when": None}]]),
    ("map", pa.map_(pa.string(), pa.int32()), [[("k", 1), ("l", None)], [], [("m", 3)]]),
    ("nothing", pa.null(), [None, None, None]),
]


def table(n):
    """The columns' values over and over, and a row of nulls after each three."""
    fields, arrays = [], []
    for name, kind, values in COLUMNS:
        cycle = values + [None]
        column = [cycle[i % 4] for i in range(n)]
        if pa.types.is_float16(kind):
            import numpy as np

            column = [None if x is None else np.float16(x) for x in column]
        arrays.append(pa.array(column, kind))
        fields.append(pa.field(name, kind))
    return pa.table(arrays, schema=pa.schema(fields))


def number(x, short):
    """A float as pith writes it: the shortest digits that lead back to it."""
    if x != x:
        return '"NaN"'
    if x in (INF, -INF):
        return '"inf"' if x > 0 else '"-inf"'
    text = repr(x)
    if short:
        import struct

        text = next(t for t in (f"{x:.{d}g}" for d in range(1, 18)) if struct.pack("f", float(t)) == struct.pack("f", x))
        text = repr(float(text))
    mantissa, _, exponent = text.partition("e")
    return mantissa + (f"e{int(exponent)}" if exponent else "")


def instant(nanoseconds, zone):
    seconds, rest = divmod(nanoseconds, 10**9)
    text = (dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)).isoformat()
    for digits, unit in ((3, 10**6), (6, 10**3), (9, 1)):
        if rest and rest % unit == 0:
            text += f".{rest // unit:0{digits}}"
            break
    return json.dumps(text + ("Z" if zone else ""))


def cell(kind, value):
    """A value's JSON as pith has it."""
    if not value.is_valid:
        return "null"
    if pa.types.is_dictionary(kind):
        return json.dumps(value.as_py(), ensure_ascii=False)
    if pa.types.is_timestamp(kind):
        factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
        return instant(value.value * factor, kind.tz)
    if pa.types.is_time(kind):
        factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
        return json.dumps(json.loads(instant(value.value * factor, False)).partition("T")[2])
    if pa.types.is_date(kind):
        return json.dumps(value.as_py().isoformat())
    if pa.types.is_floating(kind):
        return number(float(value.as_py()), not pa.types.is_float64(kind))
    if pa.types.is_decimal(kind):
        return f"{value.as_py():f}"
    if pa.types.is_list(kind):
        return "[" + ",".join(cell(kind.value_type, item) for item in value.values or []) + "]"
    if pa.types.is_map(kind):
        return "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in value.as_py()) + "}"
    if pa.types.is_struct(kind):
        return "{" + ",".join(f"{json.dumps(f.name)}:{cell(f.type, value[f.name])}" for f in kind) + "}"
    value = value.as_py()
    if isinstance(value, bytes):
        return json.dumps(value.hex())
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def lines(rows):
    columns = [(field.name, field.type, rows.column(field.name)) for field in rows.schema]
    for i in range(rows.num_rows):
        yield "{" + ",".join(f"{json.dumps(n)}:{cell(k, c[i])}" for n, k, c in columns) + "}"


def fixtures(folder):
    rows = table(7)
    pq.write_table(rows, folder / "types.parquet.bin", row_group_size=3, compression="zstd", write_statistics=False)
    (folder / "types.jsonl").write_text("".join(line + "\n" for line in lines(rows)))
    few = rows.select(["text", "i64", "f64", "category", "words"])
    for codec in CODECS:
        pq.write_table(few, folder / f"few_{codec}.parquet.bin", row_group_size=3, compression=codec, store_schema=False)
    pq.write_table(few, folder / "few_v2.parquet.bin", data_page_version="2.0", use_dictionary=False,
                   column_encoding={"text": "DELTA_BYTE_ARRAY", "i64": "DELTA_BINARY_PACKED", "f64": "BYTE_STREAM_SPLIT",
                                    "category": "DELTA_LENGTH_BYTE_ARRAY", "words.list.element": "PLAIN"})
    spark = pa.table({"when": pa.array([FIRST, NOON, LAST, None], pa.timestamp("us"))})
    pq.write_table(spark, folder / "int96.parquet.bin", use_deprecated_int96_timestamps=True)
    far = pa.table({"when": pa.array([0, 2**62, -(2**62), 253402300800000000], pa.timestamp("us"))})
    pq.write_table(far, folder / "far.parquet.bin")
    bomb = pa.table({"text": pa.array(["x" * 300_000] * 3000).dictionary_encode()})
    pq.write_table(bomb, folder / "dictionary.parquet.bin", compression="zstd")
    pq.write_table(pa.table({"m": pa.array([[(1, 2)]], pa.map_(pa.int32(), pa.int32()))}), folder / "map.parquet.bin")
    pq.write_table(pa.table({"a": [1]}), folder / "brotli.parquet.bin", compression="brotli", store_schema=False)
    pq.write_table(few.slice(0, 0), folder / "empty.parquet.bin")


def make(folder):
    rows = table(1001)
    for codec in CODECS:
        for version in ("1.0", "2.0"):
            for dictionary in (True, False):
                name = f"{codec}_{version}_{'dictionary' if dictionary else 'plain'}.parquet"
                pq.write_table(rows, folder / name, row_group_size=300, compression=codec,
                               data_page_version=version, use_dictionary=dictionary, data_page_size=2000)
    words = [{"word": f"w{i}", "n": i, "x": i / 7, "ok": i % 2 == 0, "mixed": i if i % 2 else str(i), "list": [i]} for i in range(500)]
    (folder / "inferred.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))


def plain(kind):
    """What Parquet itself keeps of a type."""
    if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_timestamp(kind) and kind.tz:
        return pa.timestamp(kind.unit, "UTC")
    return kind


def without_names(kind):
    """A type without the names that lists and maps have for what is in them."""
    return re.sub(r" \('\w+'\)", "", str(kind)).replace("item: ", "element: ")


def check(folder):
    wanted = table(1001)
    schema = pa.schema([pa.field(f.name, plain(f.type)) for f in wanted.schema])
    wanted = wanted.cast(schema)
    files = sorted(folder.glob("*.parquet"))
    assert len(files) == 20, files
    for file in files:
        got = pq.read_table(file.with_suffix(".again"))
        for field in schema:
            kind = got.schema.field(field.name).type
            assert without_names(kind) == without_names(field.type), (file, field, kind)
            a, b = got[field.name], wanted[field.name]
            assert len(a) == len(b), file
            same = [cell(field.type, x) == cell(field.type, y) for x, y in zip(a, b)]
            assert all(same), (file, field, same.index(False))
        assert got.schema.names == schema.names + ["pith_error"], file
        assert pq.ParquetFile(file.with_suffix(".again")).metadata.created_by.startswith("pith version ")
    got = pq.read_table(folder / "inferred.again")
    kinds = [str(f.type) for f in got.schema]
    assert kinds == ["string", "int64", "double", "bool", "string", "string", "string"], kinds
    rows = [json.loads(line) for line in (folder / "inferred.jsonl").read_text().splitlines()]
    for row, back in zip(rows, got.to_pylist(), strict=True):
        assert [back[name] for name in ("word", "n", "x", "ok")] == [row[name] for name in ("word", "n", "x", "ok")]
        assert back["mixed"] == str(row["mixed"]) and json.loads(back["list"]) == row["list"] and back["error"] is None
    print(f"{len(files)} files of {len(COLUMNS)} types, and one of inferred types, are equal")


if __name__ == "__main__":
    {"fixtures": fixtures, "make": make, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
