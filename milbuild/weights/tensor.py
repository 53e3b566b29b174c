"""A tensor of the checkpoint that nobody has read yet, and what is still to be done to it."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from milbuild.errors import Error
from milbuild.weights.safetensors import PIECE, Stored, pieces

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
UNSIGNED = {size: np.dtype(f"u{size}") for size in (2, 4, 8)}
HELD = 5 << 20  # bytes of a transposed matrix that are held at once; for more its rows are read again
# Of float32's bits without the sign, doubled: 2^-14, float16's smallest normal number, and how far from there to 65,520, from
# which on it overflows. BIAS takes 112 off the exponent and adds just less than half of the last place that stays.
SMALLEST = np.uint32(2 * 0x38800000)
NORMAL = np.uint32(2 * (0x477FF000 - 0x38800000))
BIAS = np.uint32(0x100000000 - (112 << 23) + 0xFFF)


class Tensor:
    """A name in the checkpoint and a view on its bytes there; transposing and slicing only change the view.

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
        data = self.data
        if isinstance(data, Stored) and not data.flags.c_contiguous:
            raise AssertionError(f"{self.key} is no longer as it is in the file; reshape it before")
        return Tensor(self.name, f"{self.key} as {shape}", data.reshape(shape))

    def bands(self, count: int) -> Iterator[np.ndarray]:
        """`count` rows at a time in float64, the last time what is left of them; each valid until the next is asked for."""
        row = math.prod(self.shape[1:])
        held, filled = np.empty(count * row), 0
        for piece in self.pieces(FLOAT64):
            while piece.size:
                part = piece[: held.size - filled]
                held[filled : filled + part.size] = part
                piece, filled = piece[part.size :], filled + part.size
                if filled == held.size:
                    yield held.reshape(count, *self.shape[1:])
                    filled = 0
        if filled:
            yield held[:filled].reshape(-1, *self.shape[1:])

    def values(self, dtype: np.dtype[Any] = FLOAT32) -> np.ndarray:
        """The values themselves, for the few that become numbers in the program (an activation's slope, a short bias)."""
        return np.concatenate([piece.copy() for piece in self.pieces(dtype)]).reshape(self.shape)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        """The tensor in C order as one-dimensional arrays of `dtype`, each valid until the next is asked for.

        Raises `Error` for NaN, infinity, and values that `dtype` cannot hold, with their number and the largest.
        """
        yield from self._checked(self.data, dtype)

    def _checked(self, data: np.ndarray, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        for piece in _converted(data, dtype):
            if dtype.kind == "f" and not _finite(piece):
                raise self._not_finite(dtype)
            yield piece

    def _not_finite(self, dtype: np.dtype[Any]) -> Error:
        nan = infinite = overflowing = 0
        largest = 0.0
        for piece in _converted(self.data, FLOAT64):
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
        value = self._compute(*(part.values(FLOAT64) for part in self._parts))
        if value.shape != self._shape:
            raise AssertionError(f"{self.name} has the shape {value.shape}, not {self._shape}")
        return value

    @property
    def T(self) -> Tensor:
        return Computed("transposed", np.transpose, self.shape[::-1], self)

    def reshaped(self, *shape: int) -> Tensor:
        return _Reshaped(self, shape)

    def rows(self, start: int, stop: int) -> Tensor:
        shape = (stop - start, *self.shape[1:])
        return Computed(f"rows {start} to {stop}", lambda values: values[start:stop], shape, self)


class Rowwise(Computed):
    """Computed a few rows at a time: each row of the result, which `compute` gives in order, is made of the same row of every
    part."""

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        largest = max(math.prod(part.shape[1:]) for part in (self, *self._parts))
        count = min(self.shape[0], max(1, PIECE // largest))
        for rows in zip(*(part.bands(count) for part in self._parts), strict=True):
            yield from self._checked(np.ascontiguousarray(self._compute(*rows)), dtype)


class Joined(Computed):
    """Tensors after one another along the first axis, or matrices along the second, read one by one: weights that are
    multiplied in one product."""

    def __init__(self, *parts: Tensor, axis: int = 0) -> None:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        self._axis = axis
        recipe = "joined" if axis == 0 else "side by side"
        super().__init__(recipe, lambda *arrays: np.concatenate(arrays, axis), tuple(shape), *parts)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        if self._axis == 0:
            for part in self._parts:
                yield from part.pieces(dtype)
            return
        # As many rows as may be held: a transposed part reads all of its file's rows for them.
        height, width = self.shape
        count = max(1, HELD // (width * dtype.itemsize))
        for start in range(0, height, count):
            rows = [part.rows(start, min(start + count, height)).values(dtype) for part in self._parts]
            yield from pieces(np.concatenate(rows, 1).reshape(-1))

    @property
    def T(self) -> Tensor:
        if len(self.shape) != 2:
            return super().T
        return Joined(*(part.T for part in self._parts), axis=1 - self._axis)

    def rows(self, start: int, stop: int) -> Tensor:
        if self._axis == 1:
            return Joined(*(part.rows(start, stop) for part in self._parts), axis=1)
        found, at = [], 0
        for part in self._parts:
            first, last = (min(max(place - at, 0), part.shape[0]) for place in (start, stop))
            if first < last:
                found.append(part.rows(first, last))
            at += part.shape[0]
        return Joined(*found) if found else super().rows(start, stop)


class _Reshaped(Computed):
    """The values of a tensor that is worked out, in the same order, in another shape."""

    def __init__(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__("reshaped", lambda values: values.reshape(shape), shape, tensor)
        self.name = tensor.name

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        return self._parts[0].pieces(dtype)


def interleaved(tensor: Tensor, heads: int, sizes: Sequence[int]) -> list[Tensor]:
    """The parts of a fused weight (heads * sum(sizes), ...) whose rows stand head by head, `sizes[i]` of each for part i: each
    (heads * sizes[i], ...), head by head. With 1 for `heads` the parts stand after one another.

    They stay in the file: nothing is copied but what a piece holds. GPT-NeoX, BLOOM and Falcon store queries, keys and values
    so, where torch users write `weight.view(heads, 3, head_width, -1)[:, i]`.
    """
    height = sum(sizes)
    if heads * height != tensor.shape[0]:
        raise AssertionError(f"{tensor.name} has {tensor.shape[0]} rows, not {heads} times {height}")
    found: list[Tensor] = []
    begin = 0
    for size in sizes:
        rows = [tensor.rows(first + begin, first + begin + size) for first in range(0, heads * height, height)]
        found.append(rows[0] if heads == 1 else Joined(*rows))
        begin += size
    return found


def zeros(*shape: int) -> Tensor:
    """Where the checkpoint has nothing and a joined tensor needs something."""
    return Tensor("zeros", f"zeros {shape}", np.zeros(shape, np.float32))


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
        if flat.dtype == dtype:
            yield from pieces(flat)
            return
        cast = _Cast(flat.dtype, dtype, min(PIECE, flat.size))
        for piece in pieces(flat):
            yield cast.numbers(piece)
    elif data.ndim == 2 and data.strides[0] == data.itemsize <= data.strides[1] and dtype.itemsize in UNSIGNED:
        yield from _transposed(data.T, dtype)
    else:
        for row in data:
            yield from _converted(row if row.flags.c_contiguous else _gathered(row), dtype)


def _gathered(data: np.ndarray) -> np.ndarray:
    """A copy in C order of a tensor that does not lie so."""
    if isinstance(data, Stored) and data.file is not None:
        raise AssertionError("only matrices are transposed on their way out of a file")
    return np.ascontiguousarray(data)


def _transposed(stored: np.ndarray, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """The transposed matrix of one whose rows (or parts of them) are in C order in the file.

    They are read and cast some at a time. Numpy copies with a stride number by number, whatever their size: so two or four
    rows are first put side by side into wider numbers, and those are copied.
    """
    columns, rows = stored.shape
    held = np.empty((min(rows, max(1, HELD // (columns * dtype.itemsize))), columns), UNSIGNED[dtype.itemsize])
    pitch = stored.strides[0] // stored.itemsize
    height = min(columns, max(4, PIECE // pitch // 4 * 4))
    cast = _Cast(stored.dtype, dtype, height * len(held))
    for start in range(0, rows, len(held)):
        result = held[: rows - start]
        for first, part in _parts(stored[:, start : start + len(held)], height, pitch):
            wide = cast.bits(np.ascontiguousarray(part).reshape(-1)).reshape(part.shape)
            size = dtype.itemsize
            while size < 8 and len(wide) % 2 == 0 and columns * dtype.itemsize % (2 * size) == 0:
                size *= 2
                right: np.ndarray = wide[1::2].astype(UNSIGNED[size])
                np.left_shift(right, UNSIGNED[size].type(4 * size), out=right)
                wide = np.bitwise_or(right, wide[0::2], out=right)
            target = result[:, first : first + len(part)].view(UNSIGNED[size])
            np.copyto(target, wide.T, casting="unsafe")
        yield from pieces(result.reshape(-1).view(dtype))


def _parts(stored: np.ndarray, height: int, pitch: int) -> Iterator[tuple[int, np.ndarray]]:
    """(where it begins, the next `height` rows), read from the file where they are in one, every `pitch` numbers."""
    file = stored.file if isinstance(stored, Stored) else None
    buffer = np.empty(0 if file is None else height * pitch, stored.dtype)
    for first in range(0, len(stored), height):
        part = stored[first : first + height]
        if file is not None:
            assert isinstance(part, Stored)
            count, width = part.shape
            # With what stands between the rows, but for the last one, which the file may end with.
            file.fill(buffer[: (count - 1) * pitch + width], part.offset)
            part = buffer.reshape(height, pitch)[:count, :width]
        yield first, part
    if file is not None:
        file.check()


class _Cast:
    """From one type of floats to another, in pieces of at most `size`; what it gives is valid until the next piece."""

    def __init__(self, source: np.dtype[Any], target: np.dtype[Any], size: int) -> None:
        self.source, self.target = source, target
        self.halves = source == FLOAT32 and target == np.float16
        self._result = np.empty(size, target)
        self._words = np.empty((2, size if self.halves else 0), np.uint32)

    def numbers(self, piece: np.ndarray) -> np.ndarray:
        """`piece` in the target's type."""
        result = self._result[: piece.size]
        if self.halves:
            np.copyto(result.view(np.uint16), self._half_bits(piece), casting="unsafe")
        elif self.source == BFLOAT16 and self.target == np.float16:
            np.take(_bfloat16_to_float16(), piece.view(np.uint16), out=result.view(np.uint16), mode="clip")
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(result, piece, casting="unsafe")
        return result

    def bits(self, piece: np.ndarray) -> np.ndarray:
        """The bits of `piece` in the target's type, as unsigned numbers of its size or larger ones."""
        if self.halves:
            found = self._half_bits(piece)
            np.bitwise_and(found, 0xFFFF, out=found)
            return found
        same = piece if self.source == self.target else self.numbers(piece)
        return same.view(UNSIGNED[self.target.itemsize])

    def _half_bits(self, piece: np.ndarray) -> np.ndarray:
        """float32 -> the bits of float16, to the nearest and of two as near to the even one: the lower 16 of each uint32.

        What float16 holds as a normal number is a matter of its bits, in less than half of the time of numpy's cast. That does
        the rest: 0, what lies below 2^-14, what overflows, NaN.
        """
        words = piece.view(np.uint32)
        found: np.ndarray = self._words[0, : piece.size]
        other = self._words[1, : piece.size]
        np.right_shift(words, 13, out=found)
        np.bitwise_and(found, 1, out=found)
        np.add(found, words, out=found)
        np.add(found, BIAS, out=found)
        np.right_shift(found, 13, out=found)
        np.right_shift(found, 3, out=other)
        np.bitwise_and(other, 0x8000, out=other)  # the sign, which stood three bits higher
        np.bitwise_or(found, other, out=found)
        np.left_shift(words, 1, out=other)
        np.subtract(other, SMALLEST, out=other)
        rest = np.flatnonzero(other >= NORMAL)
        if rest.size:
            with np.errstate(over="ignore", invalid="ignore"):
                found[rest] = piece[rest].astype(np.float16).view(np.uint16)
        return found


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
