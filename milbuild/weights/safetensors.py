"""Safetensors files: their headers checked before anything is believed, their tensors read piece by piece.

The parser of the `safetensors` package copies every tensor it hands out and does not tell where in the file it stands,
so a checkpoint could not be streamed with it. The format: https://github.com/huggingface/safetensors#format
"""

import json
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from milbuild.errors import Error
from milbuild.weights.files import refuse_pointer

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
PIECE = 1 << 17  # numbers read at a time: few enough for the processor's cache
DOWNLOAD_AGAIN = "The file is damaged or was cut off while it was copied: download it again."


class File:
    """A file that stays open, and must stay as it was when its header was read."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._stat()
        self.size = self._state[0]
        self.address = 0  # where its first byte is mapped

    def mapped(self) -> "Stored":
        """Every byte as one array, of which nothing is read yet."""
        try:
            mapping = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise Error(f"{self.name} cannot be mapped: {error}") from error
        data = np.frombuffer(mapping, np.uint8).view(Stored)
        data.file, self.address = self, int(data.__array_interface__["data"][0])
        return data

    def fill(self, buffer: np.ndarray, offset: int) -> None:
        """Reads into all of `buffer`, which is contiguous, the bytes from `offset` on. Raises `Error` where they end before."""
        rest = buffer.reshape(-1).view(np.uint8).data
        while rest:
            try:
                count = os.preadv(self._descriptor, [rest], offset)
            except OSError as error:
                raise Error(f"{self.name} cannot be read: {error.strerror}") from error
            if not count:
                raise self._changed()
            rest, offset = rest[count:], offset + count

    def check(self) -> None:
        """Raises `Error` when the file is not what it was."""
        if self._stat() != self._state:
            raise self._changed()

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> Error:
        return Error(f"{self.name} was changed while it was read", "Wait until it is complete, then build again.")


class Stored(np.ndarray):
    """A tensor where it lies in a file: a view on its mapping, by which it is sliced and transposed.

    Its numbers are read by `pieces` and `File.fill`, not through the mapping: of a file that is cut off meanwhile that would
    end the process (SIGBUS).
    """

    file: File | None

    def __array_finalize__(self, other: Any) -> None:
        self.file = getattr(other, "file", None)

    @property
    def offset(self) -> int:
        """Of the first number, in bytes from the beginning of the file."""
        assert self.file is not None
        at = int(self.__array_interface__["data"][0]) - self.file.address
        assert 0 <= at < self.file.size, "a copy, whose numbers are in no file"
        return at


def pieces(flat: np.ndarray) -> Iterator[np.ndarray]:
    """A contiguous one-dimensional array a piece at a time; of a `Stored` one each is valid until the next is asked for."""
    if not isinstance(flat, Stored) or flat.file is None:
        yield from (flat[start : start + PIECE] for start in range(0, flat.size, PIECE))
        return
    buffer, offset = np.empty(min(PIECE, flat.size), flat.dtype), flat.offset if flat.size else 0
    for start in range(0, flat.size, PIECE):
        piece = buffer[: flat.size - start]
        flat.file.fill(piece, offset + start * flat.itemsize)
        yield piece
    flat.file.check()


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file as a read-only `Stored`, by name, in the order of the header.

    Raises `Error` for a header that is longer than the file, is not JSON, or describes a tensor of an unknown type, of
    another size than its bytes, outside the file or on top of another.
    """
    try:
        file = File(path)
    except OSError as error:
        raise Error(f"{path.name} cannot be read: {error.strerror}") from error
    first = np.zeros(8, np.uint8)
    file.fill(first[: file.size], 0)
    length = int.from_bytes(first.tobytes(), "little")
    if file.size < 8 or length > min(file.size - 8, MAX_HEADER):
        refuse_pointer(path)
        said = f"the header should have {length:,} bytes, the whole file has {file.size:,}"
        raise Error(f"{path.name}: {said}", DOWNLOAD_AGAIN)
    text = np.empty(length, np.uint8)
    file.fill(text, 8)
    try:
        header = json.loads(text.tobytes())
        entries = {name: _entry(path, name, value) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise Error(f"{path.name}: the header is no safetensors header ({error})", DOWNLOAD_AGAIN) from error

    available = file.size - 8 - length
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
    data = file.mapped()[8 + length :]
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
            f"{path.name}: {name} has the type {dtype}; it must be one of {known}",
            "Save the checkpoint in float16, bfloat16 or float32.",
        )
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not whole or not all(isinstance(n, int) and n >= 0 for n in [*shape, *offsets]) or offsets[0] > offsets[1]:
        raise ValueError(f"{name}: shape {shape}, data_offsets {offsets}")
    return DTYPES[dtype], tuple(shape), offsets[0], offsets[1]
