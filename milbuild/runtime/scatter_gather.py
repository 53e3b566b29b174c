"""Reading and writing by index (coremltools: ops/defs/iOS15, iOS16 and iOS17/scatter_gather.py).

What Core ML leaves undefined, an index outside, raises IndexError. A negative index counts from the end; where a program
asks for the check of its indices, and in what scatters from iOS17 (opset 7) on, it lies outside.
"""

import math

import torch
from torch import Tensor

from milbuild.runtime.registry import moves, operation


def _inside(indices: Tensor, size: int, negative: bool) -> Tensor:
    """Indices counted from the front, as torch takes them."""
    if not indices.numel():
        return indices.long()
    low, high = (int(end) for end in torch.aminmax(indices))
    if high >= size or low < (-size if negative else 0):
        raise IndexError(f"the index {high if high >= size else low} is outside of {size} entries")
    return (torch.where(indices < 0, indices + size, indices) if low < 0 else indices).long()


def _rows(indices: Tensor, sizes: list[int], negative: bool) -> Tensor:
    """The last axis of `indices` holds an index into each of `sizes`; this is the index into all of them, flattened."""
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for one, size in zip(indices.unbind(-1), sizes, strict=True):
        rows = rows * size + _inside(one, size, negative)
    return rows


@moves
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    axis %= x.ndim
    if axis < batch_dims:
        raise ValueError(f"the axis {axis} is one of the {batch_dims} batch axes")
    chosen = _inside(indices, x.shape[axis], not validate_indices)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if batch_dims:
        batch = chosen.shape[:batch_dims]
        if batch != x.shape[:batch_dims]:
            raise ValueError(f"the indices' batch axes are {tuple(batch)}, those of x {tuple(x.shape[:batch_dims])}")
        flat = chosen.reshape([*batch, *[1] * (axis - batch_dims), -1, *[1] * len(after)])
        taken = torch.gather(x, axis, flat.expand(*before, -1, *after))
    else:
        taken = torch.index_select(x, axis, chosen.reshape(-1))
    return taken.reshape((*before, *indices.shape[batch_dims:], *after))


@moves
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    _same_but_for(axis, x, indices)
    return torch.gather(x, axis, _inside(indices, x.shape[axis], not validate_indices))


@moves
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    batch, end = x.shape[:batch_dims], batch_dims + indices.shape[-1]
    if batch != indices.shape[:batch_dims]:
        raise ValueError(f"the indices' batch axes are {tuple(indices.shape[:batch_dims])}, those of x {tuple(batch)}")
    rows = _rows(indices, list(x.shape[batch_dims:end]), not validate_indices)
    count = math.prod(x.shape[batch_dims:end])
    first = torch.arange(math.prod(batch)) * count
    rows = rows + first.reshape([*batch, *[1] * (rows.ndim - batch_dims)])
    taken = x.reshape(math.prod(batch) * count, *x.shape[end:]).index_select(0, rows.reshape(-1))
    return taken.reshape((*indices.shape[:-1], *x.shape[end:]))


@operation
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    axis %= data.ndim
    rows = _inside(indices, data.shape[axis], opset < 7).reshape(-1)
    before, after = data.shape[:axis], data.shape[axis + 1 :]
    if updates.shape != (*before, *indices.shape, *after):
        raise ValueError(f"the updates' shape should be {(*before, *indices.shape, *after)}")
    index = rows.reshape(-1, *[1] * len(after)).expand(*before, -1, *after)
    return _scattered(data, axis, index, updates.reshape(index.shape), mode)


@operation
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    _same_but_for(axis, data, indices)
    if updates.shape != indices.shape:
        raise ValueError(f"the updates' shape should be {tuple(indices.shape)}")
    return _scattered(data, axis, _inside(indices, data.shape[axis], opset < 7), updates, mode)


@operation
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    depth = indices.shape[-1]
    if not indices.shape[:-1].numel():
        # A mask that is nowhere true, after non_zero: nothing is written, whatever `tile` made of updates to be repeated 0 times.
        return data.clone()
    if updates.shape != indices.shape[:-1] + data.shape[depth:]:
        raise ValueError(f"the updates' shape should be {tuple(indices.shape[:-1] + data.shape[depth:])}")
    rows = _rows(indices, list(data.shape[:depth]), opset < 7).reshape(-1, 1)
    inner = math.prod(data.shape[depth:])
    flat = data.reshape(math.prod(data.shape[:depth]), inner)
    result = _scattered(flat, 0, rows.expand(-1, inner), updates.reshape(rows.shape[0], inner), mode)
    return result.reshape(data.shape)


def _same_but_for(axis: int, x: Tensor, indices: Tensor) -> None:
    axis %= x.ndim
    if x.ndim != indices.ndim or any(
        n != m for i, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True)) if i != axis
    ):
        raise ValueError(f"{tuple(indices.shape)} and {tuple(x.shape)} differ elsewhere than at axis {axis}")


# The modes that accumulate, as torch names them. Where an index occurs twice, every update counts; for "update" the last.
REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def _scattered(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode not in REDUCTIONS:
        raise ValueError(f"the mode {mode!r} is unknown")
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return torch.div(data, divisor, rounding_mode=None if data.is_floating_point() else "trunc")
    return data.scatter_reduce(axis, index, -updates if mode == "sub" else updates, REDUCTIONS[mode])
