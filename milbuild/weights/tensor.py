"""A tensor of the checkpoint that nobody has read yet, and what is still to be done to it."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from milbuild.errors import Error

PIECE = 1 << 16  # elements converted at a time: source, result and what lies between stay in the processor's cache
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)


class Tensor:
    """A name in the checkpoint and a view on its mapped bytes; transposing and slicing only change the view.

    `key` is equal for equal content: the name, and what was done to it.
    """

    def __init__(self, name: str, key: str, data: np.ndarray) -> None:
        self.name, self.key, self.data = name, key, data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def T(self) -> "Tensor":
        """The transposed matrix."""
        return Tensor(self.name, self.key + ".T", self.data.T)

    def rows(self, start: int, stop: int) -> "Tensor":
        """The rows `start` to `stop`, without `stop`."""
        return Tensor(self.name, f"{self.key}[{start}:{stop}]", self.data[start:stop])

    def reshaped(self, *shape: int) -> "Tensor":
        """The same values in another shape."""
        return Tensor(self.name, f"{self.key} as {shape}", self.data.reshape(shape))

    def values(self, dtype: np.dtype[Any] = FLOAT32) -> np.ndarray:
        """The values themselves, for the few that become numbers in the program (an activation's slope, a short bias)."""
        return np.concatenate([piece.copy() for piece in self.pieces(dtype)]).reshape(self.shape)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        """The tensor in C order as one-dimensional arrays of `dtype`, each valid until the next is asked for.

        Raises `Error` for NaN, infinity, and values that `dtype` cannot hold, with their number and the largest.
        """
        for piece in _converted(self.data, dtype):
            if dtype.kind == "f" and not _finite(piece):
                raise self._not_finite(dtype)
            yield piece

    def _not_finite(self, dtype: np.dtype[Any]) -> Error:
        nan = infinite = overflowing = 0
        largest = 0.0
        for piece in _converted(self.data, np.dtype(np.float64)):
            with np.errstate(over="ignore"):
                narrow = np.isinf(piece.astype(dtype)) & np.isfinite(piece)
            nan += int(np.isnan(piece).sum())
            infinite += int(np.isinf(piece).sum())
            overflowing += int(narrow.sum())
            largest = max(largest, float(np.abs(piece[narrow]).max(initial=0.0)))
        if nan or infinite:
            hint = "The checkpoint itself is broken; no precision can hold these values."
            return Error(
                f"{self.name}: {nan:,} of {self.data.size:,} values are NaN and {infinite:,} are infinite", hint
            )
        what = (
            f"{self.name}: {overflowing:,} of {self.data.size:,} values overflow {dtype}, the largest is {largest:.6g}"
        )
        remedy = "Build with precision float32." if dtype == np.float16 else None
        return Error(f"{what}; {dtype} ends at {np.finfo(dtype).max:.6g}", remedy)


class Computed(Tensor):
    """A tensor that is worked out of others when it is saved: a folded norm, an interpolated table.

    `compute` gets their values in float64 and gives an array of `shape`. `recipe` tells computations of the same parts
    apart, and says in errors what it is.
    """

    def __init__(self, recipe: str, compute: Callable[..., np.ndarray], shape: tuple[int, ...], *parts: Tensor) -> None:
        self.name = f"{recipe} of {', '.join(dict.fromkeys(part.name for part in parts))}"
        self.key = f"{recipe}({', '.join(part.key for part in parts)}) {shape}"
        self._compute, self._shape, self._parts = compute, tuple(shape), parts

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def data(self) -> np.ndarray:  # type: ignore[override]
        value = self._compute(*(part.values(np.dtype(np.float64)) for part in self._parts))
        if value.shape != self._shape:
            raise AssertionError(f"{self.name} has the shape {value.shape}, not {self._shape}")
        return value

    @property
    def T(self) -> Tensor:
        return Computed("transposed", np.transpose, self.shape[::-1], self)

    def rows(self, start: int, stop: int) -> Tensor:
        shape = (stop - start, *self.shape[1:])
        return Computed(f"rows {start} to {stop}", lambda values: values[start:stop], shape, self)


class Joined(Computed):
    """Tensors behind one another along the first axis, read one by one: weights that are multiplied in one product."""

    def __init__(self, *parts: Tensor) -> None:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        super().__init__("joined", lambda *arrays: np.concatenate(arrays), shape, *parts)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        for part in self._parts:
            yield from part.pieces(dtype)

    def reshaped(self, *shape: int) -> Tensor:
        other = Joined(*self._parts)
        other._shape, other.key = shape, f"{self.key} as {shape}"
        other._compute = lambda *arrays: np.concatenate(arrays).reshape(shape)
        return other


def zeros(*shape: int) -> Tensor:
    """Where the checkpoint has nothing and a joined tensor needs something."""
    return Tensor("zeros", f"zeros {shape}", np.broadcast_to(np.float32(0), shape))


class Unread(np.ndarray):
    """What a tensor looks like to the graph: an array of the right shape and type that costs nothing and has no values.

    MIL keeps the arrays of constants by reference, so the serialiser finds the tensor again in `tensor`. Whoever looks at
    the values gets an error, never wrong numbers.
    """

    tensor: Tensor

    @staticmethod
    def of(tensor: Tensor, dtype: np.dtype[Any]) -> "Unread":
        # numpy itself can still look (np.array(x) reads the buffer): what it sees had better not pass for a number.
        nothing = np.full((), np.nan if dtype.kind == "f" else 0, dtype)
        array = np.broadcast_to(nothing, tensor.shape).view(Unread)
        array.tensor = tensor
        return array

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        name = getattr(getattr(self, "tensor", None), "name", "a tensor")
        raise AssertionError(f"{name} is not read while the graph is built, and something asked for its values")

    __array_ufunc__ = __array_function__ = __getitem__ = __iter__ = __float__ = __int__ = __bool__ = _refuse
    all = any = argmax = argmin = astype = copy = dot = flatten = item = max = mean = min = ravel = repeat = _refuse
    reshape = round = squeeze = std = sum = take = tobytes = tofile = tolist = transpose = _refuse


def _converted(data: np.ndarray, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    if data.size == 0:
        return
    if data.flags.c_contiguous:
        flat = data.reshape(-1)
        buffer = np.empty(min(PIECE, data.size), dtype)
        for start in range(0, data.size, PIECE):
            piece = flat[start : start + PIECE]
            yield piece if piece.dtype == dtype else _cast(piece, buffer[: piece.size])
    elif data.ndim == 2 and data.T.flags.c_contiguous:
        # Read in bands of the file's columns, cast as they come, transpose the small result: the file is never walked
        # with a stride that leaves the cache.
        rows, columns = data.shape
        band = max(1, PIECE // columns)
        before, after = np.empty((columns, band), dtype), np.empty((band, columns), dtype)
        for start in range(0, rows, band):
            piece = data.T[:, start : start + band]
            wide = piece.shape[1]
            _cast(piece, before[:, :wide])
            np.copyto(after[:wide], before[:, :wide].T)
            yield after[:wide].reshape(-1)
    else:
        for row in data:
            yield from _converted(np.ascontiguousarray(row), dtype)


def _cast(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    if source.dtype == BFLOAT16 and target.dtype == np.float16:
        np.take(_bfloat16_to_float16(), source.view(np.uint16), out=target.view(np.uint16), mode="clip")
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(target, source, casting="unsafe")
    return target


@cache
def _bfloat16_to_float16() -> np.ndarray:
    """Every bfloat16 as float16, by its bits: half the time of the best cast."""
    table: np.ndarray = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return table.astype(np.float16).view(np.uint16)


def _finite(piece: np.ndarray) -> bool:
    if piece.dtype.itemsize == 8:
        return bool(np.isfinite(piece).all())
    # Without their sign (shifted out), NaN and infinity are the largest bit patterns: one pass in integers.
    half = piece.dtype.itemsize == 2
    shifted = np.left_shift(piece.view(np.uint16 if half else np.uint32), 1)
    return bool(shifted.max() < (0xF800 if half else 0xFF000000))
