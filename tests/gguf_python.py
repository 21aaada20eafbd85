"""Round trips of GGUF files between pith and the Python package `gguf`.

    pip install gguf==0.19.0
    python tests/gguf_python.py make tests/data/gguf_python.gguf.bin

writes the file that `tests/gguf.rs` reads (the committed one was made with gguf 0.19.0, numpy 2.4.6); and

    PITH_GGUF_OUT=$PWD/pith.gguf cargo test -p pith --test gguf -- --ignored for_python
    python tests/gguf_python.py check pith.gguf

reads, value by value, a file that pith wrote.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Format
from gguf import GGUFValueType as Type

# Key, type (of the elements, for an array), value. tests/gguf.rs has the same table.
SCALARS = [
    ("test.u8", Type.UINT8, 200),
    ("test.i8", Type.INT8, -100),
    ("test.u16", Type.UINT16, 60000),
    ("test.i16", Type.INT16, -30000),
    ("test.u32", Type.UINT32, 4000000000),
    ("test.i32", Type.INT32, -2000000000),
    ("test.f32", Type.FLOAT32, -1.5),
    ("test.bool", Type.BOOL, True),
    ("test.string", Type.STRING, "Grüße, 世界 \U0001f989\n"),
    ("test.u64", Type.UINT64, 18000000000000000000),
    ("test.i64", Type.INT64, -9000000000000000000),
    ("test.f64", Type.FLOAT64, 0.1),
]
ARRAYS = [
    ("test.strings", Type.STRING, ["", "Ġthe", "\U0001f989", "line\nbreak"]),
    ("test.f32s", Type.FLOAT32, [0.0, -1.5, 3.25]),
    ("test.u32s", Type.UINT32, [0, 7, 4000000000]),
    ("test.i32s", Type.INT32, [1, -2, 3]),
    ("test.bools", Type.BOOL, [True, False, True]),
]
# Only written by Python: pith writes the kinds that model files have.
MORE_ARRAYS = [
    ("test.u8s", Type.UINT8, [0, 255]),
    ("test.i8s", Type.INT8, [-128, 127]),
    ("test.u16s", Type.UINT16, [65535]),
    ("test.i16s", Type.INT16, [-32768]),
    ("test.u64s", Type.UINT64, [0, 18000000000000000000]),
    ("test.i64s", Type.INT64, [-9000000000000000000]),
    ("test.f64s", Type.FLOAT64, [0.1, 1e300]),
    ("test.nested", Type.ARRAY, [[1, 2], [3]]),
    ("test.nested_strings", Type.ARRAY, [["a"], ["b", "c"]]),
]
ALIGNMENT = 64


def values(n):
    """Numbers that f16 holds exactly."""
    return ((np.arange(n) % 17 - 8) * 0.25).astype(np.float32)


def make(path):
    writer = gguf.GGUFWriter(path, "test")  # writes general.architecture
    writer.add_custom_alignment(ALIGNMENT)
    for key, kind, value in SCALARS:
        writer.add_key_value(key, value, kind)
    for key, kind, value in ARRAYS + MORE_ARRAYS:
        writer.add_key_value(key, value, Type.ARRAY, sub_type=kind)

    writer.add_tensor("f32", values(3 * 5).reshape(3, 5))
    writer.add_tensor("f16", values(2 * 2 * 4).astype(np.float16).reshape(2, 2, 4))
    # The package encodes few formats: the K-quant's blocks are a pattern of bytes instead, after
    # scales d and dmin. What blocks stand for is in the file beside them.
    scales = np.array([[0.5, 0.25], [-2.0, 1.0]], dtype=np.float16).view(np.uint8)
    codes = ((np.arange(2 * 140) * 37 + 11) % 256).astype(np.uint8).reshape(2, 140)
    stored = {
        Format.Q4_0: gguf.quants.quantize(values(2 * 64).reshape(2, 64), Format.Q4_0),
        Format.Q8_0: gguf.quants.quantize(values(2 * 64).reshape(2, 64), Format.Q8_0),
        Format.BF16: gguf.quants.quantize(values(2 * 8).reshape(2, 8), Format.BF16),
        Format.Q4_K: np.hstack([scales, codes]),
    }
    for kind, blocks in stored.items():
        name = kind.name.lower()
        writer.add_tensor(name, blocks, raw_dtype=kind)
        writer.add_tensor(name + ".values", gguf.quants.dequantize(blocks, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path):
    reader = gguf.GGUFReader(path)
    assert reader.alignment == ALIGNMENT, reader.alignment
    for key, kind, value in SCALARS:
        field = reader.fields[key]
        got = field.contents()
        assert field.types == [kind] and got == value, (key, field.types, got)
    for key, kind, value in ARRAYS:
        field = reader.fields[key]
        got = field.contents()
        assert field.types == [Type.ARRAY, kind] and got == value, (key, field.types, got)
    fields = {f for f in reader.fields if f.startswith("test.")}
    assert fields == {key for key, _, _ in SCALARS + ARRAYS}, fields

    # Name, format, shape as numpy has it (rows first).
    wanted = [
        ("f32", Format.F32, (3, 5)),
        ("f16", Format.F16, (2, 2, 4)),
        ("q8_0", Format.Q8_0, (2, 64)),
        ("q4_0", Format.Q4_0, (2, 64)),
        ("one", Format.F32, (1,)),
    ]
    got = [(t.name, t.tensor_type, tuple(reversed(t.shape.tolist()))) for t in reader.tensors]
    assert got == wanted, got
    for tensor, (name, kind, shape) in zip(reader.tensors, wanted):
        numbers = values(int(np.prod(shape))).reshape(shape)
        blocks = tensor.data
        if kind not in (Format.F32, Format.F16):
            encoded = gguf.quants.quantize(numbers, kind)
            assert np.array_equal(blocks, encoded), name
        else:
            assert np.array_equal(blocks.astype(np.float32), numbers), name
        assert tensor.data_offset % ALIGNMENT == 0, name
    print(f"gguf {path}: {len(fields)} keys, {len(got)} tensors as expected")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](sys.argv[2])
