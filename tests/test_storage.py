"""Element types in files, against coremltools' own writer of weight.bin."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milbuild.package.storage import (
    ALIGNMENT,
    BITS,
    CODES,
    DTYPES,
    HEADER,
    METADATA,
    SENTINEL,
    VERSION,
    decode,
    size,
    unpack,
)

# What coremltools calls each type; it writes neither bfloat16 nor the floats of eight bits.
NAMES = {"FLOAT32": "float", "FLOAT16": "fp16"} | {
    name: name.lower()
    for name in ("INT4", "INT8", "INT16", "INT32", *(f"UINT{bits}" for bits in (1, 2, 3, 4, 6, 8, 16, 32)))
}
COUNTS = [1, 2, 3, 5, 7, 8, 9, 31, 64, 1000]


def limits(dtype: str) -> tuple[int, int]:
    if dtype == "INT4":
        return -8, 7
    if dtype in BITS:
        return 0, 2 ** BITS[dtype] - 1
    info = np.iinfo(DTYPES[dtype])
    return int(info.min), int(info.max)


def numbers(dtype: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    if dtype.startswith("FLOAT"):
        values = rng.normal(0, 100, count).astype(DTYPES[dtype])
        special = [np.nan, np.inf, -np.inf, -0.0, np.finfo(DTYPES[dtype]).tiny][: count - 1]
        values[: len(special)] = special
        return values
    low, high = limits(dtype)
    values = rng.integers(low, high, count, np.int64, endpoint=True)
    values[0], values[-1] = low, high
    return values.astype(DTYPES[dtype])


def written(path: Path, dtype: str, several: list[np.ndarray]) -> list[int]:
    writer: Any = _BlobStorageWriter(str(path))
    write = getattr(writer, f"write_{NAMES[dtype]}_data")
    # float16 goes as its bits
    offsets = [write(values.view(np.uint16) if dtype == "FLOAT16" else values) for values in several]
    del writer, write  # it is this that finishes the file
    return offsets


@pytest.mark.parametrize("dtype", NAMES)
def test_what_coremltools_writes(tmp_path: Path, dtype: str) -> None:
    several = [numbers(dtype, count) for count in COUNTS]
    offsets = written(tmp_path / "weight.bin", dtype, several)
    data = np.fromfile(tmp_path / "weight.bin", np.uint8)
    assert HEADER.unpack(data[: HEADER.size].tobytes()) == (len(several), VERSION)
    for values, at in zip(several, offsets, strict=True):
        assert at % ALIGNMENT == 0
        sentinel, code, nbytes, start, padding = METADATA.unpack(data[at : at + METADATA.size].tobytes())
        assert (sentinel, code) == (SENTINEL, CODES[dtype])
        assert nbytes == size(dtype, len(values))
        assert padding == (nbytes * 8 - len(values) * BITS[dtype] if dtype in BITS else 0)
        result = decode(data[start : start + nbytes], dtype, len(values))
        assert result.dtype == values.dtype
        np.testing.assert_array_equal(result, values)


@pytest.mark.parametrize("dtype", BITS)
def test_unpacked_like_coremltools_reads(tmp_path: Path, dtype: str) -> None:
    values = numbers(dtype, 37)
    (at,) = written(tmp_path / "weight.bin", dtype, [values])
    reader: Any = _BlobStorageReader(str(tmp_path / "weight.bin"))
    theirs = np.asarray(getattr(reader, f"read_{NAMES[dtype]}_data")(at))
    data = np.fromfile(tmp_path / "weight.bin", np.uint8)
    *_, nbytes, start, _ = METADATA.unpack(data[at : at + METADATA.size].tobytes())
    np.testing.assert_array_equal(decode(data[start : start + nbytes], dtype, 37), theirs)


@given(data=st.data(), bits=st.integers(1, 8), signed=st.booleans())
def test_unpack(data: Any, bits: int, signed: bool) -> None:
    """The first number in the lowest bits; the highest bit of a signed one counts negative. What is left over is ignored."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    wanted = data.draw(st.lists(st.integers(low, high), max_size=20))
    rest = data.draw(st.integers(0, 255))
    whole = sum(n % 2**bits << bits * place for place, n in enumerate(wanted)) | rest << bits * len(wanted)
    packed = np.frombuffer(whole.to_bytes(bits * len(wanted) // 8 + 2, "little"), np.uint8)
    assert unpack(packed, bits, len(wanted), signed).tolist() == wanted


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - set(BITS) - {"STRING"}))
@settings(max_examples=10)
@given(data=st.data())
def test_whole_bytes(dtype: str, data: Any) -> None:
    """Little-endian, and a view: nothing is copied."""
    kind = DTYPES[dtype]
    raw = data.draw(hnp.arrays(np.uint8, kind.itemsize * 3, elements=st.integers(0, 1 if dtype == "BOOL" else 255)))
    result = decode(raw, dtype, 3)
    assert size(dtype, 3) == raw.size
    assert np.shares_memory(result, raw)
    for place, value in enumerate(result):
        number = int.from_bytes(raw[place * kind.itemsize : (place + 1) * kind.itemsize].tobytes(), "little")
        assert int(value.reshape(1).view(f"u{kind.itemsize}")[0]) == number


@pytest.mark.parametrize(
    ("dtype", "bits", "values"),
    [
        ("FLOAT8E4M3FN", [0x00, 0x38, 0xC0, 0x7E, 0x01], [0, 1, -2, 448, 2**-9]),
        ("FLOAT8E5M2", [0x00, 0x3C, 0xC0, 0x7B, 0x7C], [0, 1, -2, 57344, np.inf]),
        ("BFLOAT16", [0x0000, 0x3F80, 0xC000, 0x7F7F, 0x7F80], [0, 1, -2, 3.3895314e38, np.inf]),
    ],
)
def test_floats_that_coremltools_does_not_write(dtype: str, bits: list[int], values: list[float]) -> None:
    raw = np.array(bits, "<u1" if "8E" in dtype else "<u2").view(np.uint8)
    np.testing.assert_allclose(decode(raw, dtype, len(bits)).astype(np.float64), values, rtol=1e-7)


def test_every_type_has_a_code_of_its_own() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert set(CODES) == set(DTYPES) - {"BOOL", "STRING", "FLOAT64", "INT64", "UINT64"}
    assert DTYPES["BFLOAT16"] == np.dtype(ml_dtypes.bfloat16)
