"""weight.bin, planned while the graph is lowered and written once, straight from the checkpoint."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from milbuild.package.storage import ALIGNMENT, CODES, HEADER, METADATA, SENTINEL, VERSION
from milbuild.weights import Tensor, Unread

WRITERS = 2  # threads: more would wait for one another, since only what numpy does goes on beside the interpreter
SAID = 4 << 20  # bytes behind which progress is told: each time the threads wait for one another


@dataclass(frozen=True)
class Blob:
    """`offset` is that of the metadata, which is what a package's values name."""

    offset: int
    nbytes: int
    dtype: np.dtype[Any]
    content: Tensor | np.ndarray

    def metadata(self) -> tuple[int, ...]:
        """What stands in front of the data."""
        return SENTINEL, CODES[self.dtype.name.upper()], self.nbytes, self.offset + METADATA.size, 0

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
        """Writes the whole file; `progress` is told the number of bytes behind each piece. Raises `Error` for bad values.

        Each blob has its place, so threads read, convert and write beside each other, and the bytes are the same however
        many there are. The largest come first, so that none is left for one thread at the end.
        """
        descriptor, stopped = file.fileno(), threading.Event()
        told: queue.SimpleQueue[int | Future[None]] = queue.SimpleQueue()

        def put(blob: Blob) -> None:
            at = said = _write(descriptor, METADATA.pack(*blob.metadata()), blob.offset)
            for piece in blob.pieces():
                if stopped.is_set():
                    return
                at = _write(descriptor, piece.data.cast("B"), at)
                if at - said > SAID:
                    told.put(at - said)
                    said = at
            told.put(at - said)

        _write(descriptor, HEADER.pack(len(self.blobs), VERSION), 0)
        with ThreadPoolExecutor(min(WRITERS, os.cpu_count() or 1)) as pool:
            try:
                for blob in sorted(self.blobs.values(), key=lambda blob: -blob.nbytes):
                    pool.submit(put, blob).add_done_callback(told.put)
                left = len(self.blobs)
                while left:
                    found = told.get()
                    if isinstance(found, int):
                        progress(found)
                    else:
                        found.result()
                        left -= 1
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)


def _write(descriptor: int, data: bytes | memoryview, at: int) -> int:
    """Writes all of `data` at a place of a file; returns the place behind it."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, at)
        rest, at = rest[count:], at + count
    return at
