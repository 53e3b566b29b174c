"""weight.bin, planned while the graph is lowered and written once, straight from the checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from milbuild.package.storage import ALIGNMENT, CODES, HEADER, METADATA, SENTINEL, VERSION
from milbuild.weights import Tensor, Unread


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
            file.write(METADATA.pack(SENTINEL, CODES[blob.dtype.name.upper()], blob.nbytes, start, 0))
            for piece in blob.pieces():
                file.write(piece.data.cast("B"))
                progress(piece.nbytes)
            at = start + blob.nbytes
