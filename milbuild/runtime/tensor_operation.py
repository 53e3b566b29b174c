"""Whole tensors: joining, splitting, filling, sorting (coremltools: ops/defs/iOS15, iOS16, iOS17/tensor_operation.py)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from milbuild.runtime.registry import int32, moves, operation

# The values that coremltools takes where a program gives none.
NOTHING = torch.tensor(0.0)
ON, OFF = torch.tensor(1, dtype=torch.int32), torch.tensor(0, dtype=torch.int32)


@operation
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return int32(torch.argsort(x, dim=axis, descending=not ascending, stable=True))


@moves
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    x = x.tril(upper) if upper >= 0 else x
    return x.triu(-lower) if lower >= 0 else x


@moves
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        axis %= values[0].ndim
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat([value if value.ndim else value[None] for value in values], axis)


@operation
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    y = x.flip(axis) if reverse else x
    if exclusive:
        y = torch.cat([torch.zeros_like(y.narrow(axis, 0, 1)), y.narrow(axis, 0, y.shape[axis] - 1)], axis)
    total = torch.cumsum(y, axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total


@moves
def fill(shape: list[int], value: Tensor = NOTHING) -> Tensor:
    return value.reshape(()).expand(shape)


@moves
def fill_like(ref_tensor: Tensor, value: Tensor = NOTHING) -> Tensor:
    return value.reshape(()).expand(ref_tensor.shape)


@moves
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@moves
def identity(x: Any) -> Any:
    return x


@operation
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float = -math.inf,
    per_class_suppression: bool = False,
    *,
    opset: int,
) -> tuple[Tensor, ...]:
    """Up to iOS16 the boxes are rows and their number is a fourth result; from iOS17 (opset 7) columns."""
    if opset >= 7:
        boxes, scores = boxes.mT, scores.mT
    best, classes = scores.amax(-1), scores.argmax(-1)
    chosen = torch.full((len(boxes), max_boxes), -1)
    for batch, order in enumerate(best.argsort(dim=-1, descending=True, stable=True)):
        ranked, kinds = boxes[batch, order], classes[batch, order]
        alive = best[batch, order] >= score_threshold
        alive[0] = True  # the best box is always given, as coremltools' own reference does
        for slot in range(max_boxes):
            if not alive.any():
                break
            first = int(alive.nonzero()[0])
            chosen[batch, slot] = order[first]
            removed = _overlap(ranked[first], ranked) > iou_threshold
            if per_class_suppression:
                removed &= kinds == kinds[first]
            alive &= ~removed
            alive[first] = False
    found = (chosen >= 0)[..., None]
    index = chosen.clamp(min=0)[..., None]
    taken = [torch.where(found, torch.take_along_dim(of, index, 1), 0) for of in (boxes, scores)]
    if opset >= 7:
        return taken[0].mT, taken[1].mT, int32(chosen)
    return taken[0], taken[1], int32(chosen), int32(found.sum((1, 2)))


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union; a box is (x, y, width, height) around its center. Without an area it overlaps with none."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    sides = torch.minimum(high, box[:2] + box[2:] / 2) - torch.maximum(low, box[:2] - box[2:] / 2)
    shared = sides.clamp(min=0).prod(-1)
    union = box[2:].prod() + boxes[:, 2:].prod(-1) - shared
    return torch.where(shared > 0, shared / union, 0)


@operation
def non_zero(x: Tensor) -> Tensor:
    return int32(torch.nonzero(x))


@moves
def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int = -1, on_value: Tensor = ON, off_value: Tensor = OFF
) -> Tensor:
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= one_hot_vector_size):
        raise IndexError(f"an index is outside of {one_hot_vector_size} places")
    hot = indices[..., None] == torch.arange(one_hot_vector_size)
    return torch.where(hot, on_value, off_value).movedim(-1, axis)


@moves
def pad(x: Tensor, pad: list[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """The sizes belong to the last axes: before and after the first of them, before and after the next, ..."""
    sides = list(zip(pad[::2], pad[1::2], strict=True))
    first = x.ndim - len(sides)
    if first < 0 or min(pad, default=0) < 0:
        raise ValueError(f"the padding is {pad} for {x.ndim} axes")
    if mode == "constant":
        return functional.pad(x, [n for side in reversed(sides) for n in side], value=constant_val)
    most = {"reflect": 1, "replicate": 0}
    if mode not in most:
        raise ValueError(f"the mode {mode!r} is unknown")
    for axis, (before, after) in enumerate(sides, first):
        size = x.shape[axis]
        if max(before, after) > size - most[mode]:
            raise ValueError(f"{mode} takes up to {size - most[mode]} at axis {axis}, not {before} and {after}")
        if before or after:
            places = torch.arange(-before, size + after)
            inside = places.clamp(0, size - 1)
            x = x.index_select(axis, inside if mode == "replicate" else 2 * inside - places)
    return x


@operation
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    if not start.is_floating_point():
        return torch.arange(int(start), int(end), int(step), dtype=start.dtype)
    # The length as coremltools works it out, for what it declares: in float32.
    count = math.ceil(float((end - start) / step))
    return start.reshape(()) + step.reshape(()) * torch.arange(max(0, count), dtype=start.dtype)


@operation
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@moves
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, split_sizes, axis)
    size, rest = divmod(x.shape[axis], num_splits or 1)
    if rest:
        raise ValueError(f"{x.shape[axis]} entries do not make {num_splits} equal parts")
    return torch.split(x, size, axis)


@moves
def stack(values: list[Tensor], axis: int) -> Tensor:
    return torch.stack(values, axis)


@moves
def tile(x: Tensor, reps: list[int]) -> Tensor:
    if len(reps) != x.ndim or min(reps) < -1:
        raise ValueError(f"{x.ndim} axes cannot be repeated {reps} times")
    # Until coremltools 8, `expand` divides the wanted shape by the tensor's, where -1 is an axis that is kept: 0 or -1.
    # A 0 of a wanted extent of 0 looks the same; scatter_nd, the only known reader of one, does not look at such updates.
    reps = [rep if rep > 0 else 1 for rep in reps]
    # An axis of one entry is repeated without a copy.
    wide = x.expand([rep if size == 1 else size for size, rep in zip(x.shape, reps, strict=True)])
    rest = [1 if size == 1 else rep for size, rep in zip(x.shape, reps, strict=True)]
    return wide if max(rest) == 1 else wide.repeat(rest)


@moves
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...] | Tensor:
    """Always sorted; of equal values the first comes first."""
    size = x.shape[axis]
    if not -1 <= k <= size:
        raise ValueError(f"k is {k} of {size} entries")
    # Numbers that differ and are ordered as the values are, which torch.topk finds faster than a stable sort does.
    places = torch.arange(size).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    keys = _ordered(x).long() * 2**32 + (places if ascending else size - 1 - places)
    _, indices = torch.topk(keys, size if k == -1 else k, axis, largest=not ascending)
    values = torch.gather(x, axis, indices)
    return (values, int32(indices)) if return_indices else values


def _ordered(x: Tensor) -> Tensor:
    """Integers in the order of x; NaN is the greatest."""
    if not x.is_floating_point():
        return x
    bits = torch.where(x.isnan(), torch.nan, x + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
