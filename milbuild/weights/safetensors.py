"""Safetensors files, mapped from disk, their headers checked before anything is believed.

The parser of the `safetensors` package copies every tensor it hands out and does not tell where in the file it stands,
so a checkpoint could not be streamed with it. The format: https://github.com/huggingface/safetensors#format
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from milbuild.errors import Error

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_HEADER = 100_000_000  # the limit of the format's own library
DOWNLOAD_AGAIN = "The file is damaged or was cut off while it was copied: download it again."


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file as a read-only array mapped from disk, by name, in the order of the header.

    Raises `Error` for a header that is longer than the file, is not JSON, or describes a tensor of an unknown type, of
    another size than its bytes, outside the file or on top of another.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise Error(
                    f"{path.name}: the header should have {length:,} bytes, the whole file has {size:,}", DOWNLOAD_AGAIN
                )
            text = file.read(length)
    except OSError as error:
        raise Error(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        header = json.loads(text)
        entries = {name: _entry(path, name, value) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise Error(f"{path.name}: the header is no safetensors header ({error})", DOWNLOAD_AGAIN) from error

    available = size - 8 - length
    end, before = 0, "the header"
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if stop > available:
            hint = DOWNLOAD_AGAIN
            raise Error(
                f"{path.name}: {name} ends at byte {stop:,} of the data, of which the file has {available:,}", hint
            )
        if start < end:
            raise Error(
                f"{path.name}: {name} begins at byte {start:,}, inside {before}, which ends at {end:,}", DOWNLOAD_AGAIN
            )
        needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if stop - start != needed:
            raise Error(
                f"{path.name}: {name} of shape {shape} needs {needed:,} bytes, its offsets leave {stop - start:,}",
                DOWNLOAD_AGAIN,
            )
        end, before = stop, name
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if available else np.empty(0, np.uint8)
    # np.memmap remembers the file in every view; a plain view on its buffer is lighter and behaves like any array.
    data = data.view(np.ndarray)
    try:
        return {name: data[a:b].view(dtype).reshape(shape) for name, (dtype, shape, a, b) in entries.items()}
    except ValueError as error:  # an empty tensor with more or longer axes than an array can have
        shapes = ", ".join(f"{name} {shape}" for name, (_, shape, start, stop) in entries.items() if start == stop)
        raise Error(f"{path.name}: no array has such a shape: {shapes[:200]} ({error})", DOWNLOAD_AGAIN) from error


def _entry(path: Path, name: str, value: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise Error(
            f"{path.name}: {name} has the type {dtype}; known are {known}",
            "Save the checkpoint in float16, bfloat16 or float32.",
        )
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not whole or not all(isinstance(n, int) and n >= 0 for n in [*shape, *offsets]) or offsets[0] > offsets[1]:
        raise ValueError(f"{name}: shape {shape}, data_offsets {offsets}")
    return DTYPES[dtype], tuple(shape), offsets[0], offsets[1]
