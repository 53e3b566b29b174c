"""weight.bin, planned while the graph is lowered and written once, straight from the checkpoint.

The format (MILBlob/Blob/StorageFormat.hpp of coremltools): a header of 64 bytes, then for each blob 64 bytes of metadata
at a multiple of 64 and its data behind it, little-endian, C order.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from milbuild.weights import Tensor, Unread

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
HEADER = struct.Struct("<II56x")  # number of blobs, version
METADATA = struct.Struct("<IIQQQ32x")  # sentinel, type, bytes, offset of the data, padding in bits

# The types that a graph of milbuild puts into the file; the reader knows them all.
CODES = {"float16": 1, "float32": 2, "uint8": 3, "int8": 4, "int16": 6, "uint16": 7, "int32": 14, "uint32": 15}


@dataclass(frozen=True)
class Blob:
    """`offset` is that of the metadata, which is what a package's values name."""

    offset: int
    nbytes: int
    dtype: np.dtype[Any]
    content: Tensor | np.ndarray

    def pieces(self) -> Iterator[np.ndarray]:
        if isinstance(self.content, Tensor):
            yield from self.content.pieces(self.dtype)
        else:
            yield np.ascontiguousarray(self.content)


@dataclass
class BlobPlan:
    """Every blob of the file-to-be, each content once, in the order in which the graph asks for them."""

    blobs: dict[Any, Blob] = field(default_factory=dict)
    end: int = HEADER.size

    def offset(self, array: np.ndarray) -> int:
        """Where the content of a constant will stand: a checkpoint's tensor (an `Unread`) or an array of the graph's own."""
        content = array.tensor if isinstance(array, Unread) else np.asarray(array)
        same = content.key if isinstance(content, Tensor) else (content.shape, content.tobytes())
        key = (array.dtype.name, same)
        if key not in self.blobs:
            start = -(-self.end // ALIGNMENT) * ALIGNMENT
            self.blobs[key] = Blob(start, array.size * array.dtype.itemsize, array.dtype, content)
            self.end = start + METADATA.size + self.blobs[key].nbytes
        return self.blobs[key].offset

    def write(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        """Writes the whole file; `progress` is told the number of bytes behind each piece. Raises `Error` for bad values."""
        file.write(HEADER.pack(len(self.blobs), VERSION))
        at = HEADER.size
        for blob in self.blobs.values():
            file.write(bytes(blob.offset - at))
            start = blob.offset + METADATA.size
            file.write(METADATA.pack(SENTINEL, CODES[blob.dtype.name], blob.nbytes, start, 0))
            for piece in blob.pieces():
                file.write(piece.data.cast("B"))
                progress(piece.nbytes)
            at = start + blob.nbytes
