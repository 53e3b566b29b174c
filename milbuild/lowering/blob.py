"""weight.bin, planned while the graph is lowered and written once, straight from the checkpoint."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from milbuild.package.storage import ALIGNMENT, CODES, HEADER, METADATA, SENTINEL, VERSION
from milbuild.weights import Tensor, Unread

FLUSHED = 64 << 20  # bytes after which writing to the disk begins
LARGE = 1 << 30  # bytes of a file that is not kept in memory when it is written


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
        """Where the content of a constant will be: a checkpoint's tensor (an `Unread`) or an array of the graph itself."""
        content = array.tensor if isinstance(array, Unread) else np.asarray(array)
        same = content.key if isinstance(content, Tensor) else (content.shape, content.tobytes())
        key = (array.dtype.name, same)
        if key not in self.blobs:
            start = -(-self.end // ALIGNMENT) * ALIGNMENT
            self.blobs[key] = Blob(start, array.size * array.dtype.itemsize, array.dtype, content)
            self.end = start + METADATA.size + self.blobs[key].nbytes
        return self.blobs[key].offset

    def write(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        """Writes the whole file; `progress` gets the number of bytes after each piece. Raises `Error` for bad values.

        The disk writes while the rest is still being converted, so that little is left at the end.
        """
        _reserve(file.fileno(), self.end)
        file.write(HEADER.pack(len(self.blobs), VERSION))
        at = flushed = HEADER.size
        with ThreadPoolExecutor(1) as beside:
            flush: Future[None] | None = None
            for blob in self.blobs.values():
                file.write(bytes(blob.offset - at))
                start = blob.offset + METADATA.size
                file.write(METADATA.pack(SENTINEL, CODES[blob.dtype.name.upper()], blob.nbytes, start, 0))
                at = start
                for piece in blob.pieces():
                    file.write(piece.data.cast("B"))
                    progress(piece.nbytes)
                    at += piece.nbytes
                    if at - flushed >= FLUSHED and (flush is None or flush.done()):
                        if flush is not None:
                            flush.result()  # the disk's error is raised once
                        flush = beside.submit(_settle, file.fileno(), flushed, at, self.end)
                        flushed = at
            if flush is not None:
                flush.result()


def _settle(descriptor: int, start: int, stop: int, size: int) -> None:
    """Writes to the disk what is in its cache; of a large file nothing stays in the cache, for other files to use."""
    os.fsync(descriptor)
    if size >= LARGE and hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def _reserve(descriptor: int, size: int) -> None:
    """Reserves the space of the whole file: a full disk is reported before anything is converted."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
                raise
