"""Choosing, and lists (coremltools: ops/defs/iOS15/control_flow.py; cond and while_loop are the engine's).

A list is a Python list of tensors that is never changed: a write gives a new one. A write past the end makes it longer, and
zeros fill the gap; past the end of a list of fixed length it is refused.
"""

from typing import Any

import torch
from torch import Tensor

from milbuild.runtime.registry import moves

DTYPES = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


class FixedList(list[Tensor]):
    """What `make_list` gives with `dynamic_length=False`."""


@moves
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@moves
def make_list(
    elem_shape: list[Tensor] | None = None, init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> list[Tensor]:
    # A size that only the first write tells is a string here; a read before that is an error.
    shape = [0 if isinstance(size, str) else int(size) for size in elem_shape or []]
    entries = [torch.zeros(shape, dtype=DTYPES[dtype])] * init_length
    return entries if dynamic_length else FixedList(entries)


@moves
def list_length(ls: Any) -> Tensor:
    return torch.tensor(len(ls), dtype=torch.int32)


@moves
def list_read(ls: Any, index: int) -> Tensor:
    return _entry(ls, index)


@moves
def list_gather(ls: Any, indices: list[int]) -> Tensor:
    return torch.stack([_entry(ls, index) for index in indices])


@moves
def list_write(ls: Any, index: int, value: Tensor) -> list[Tensor]:
    return _written(ls, {index: value})


@moves
def list_scatter(ls: Any, indices: list[int], value: Tensor) -> list[Tensor]:
    return _written(ls, dict(zip(indices, value, strict=True)))


def _entry(ls: list[Tensor], index: int) -> Tensor:
    if not 0 <= index < len(ls):
        raise IndexError(f"the index {index} is outside of a list of {len(ls)}")
    return ls[index]


def _written(ls: list[Tensor], entries: dict[int, Tensor]) -> list[Tensor]:
    new = type(ls)(ls)
    for index, value in entries.items():
        if index < 0 or (index >= len(ls) and isinstance(ls, FixedList)):
            raise IndexError(f"the index {index} is outside of a list of {len(ls)}")
        new += [torch.zeros_like(value)] * (index + 1 - len(new))
        new[index] = value
    return new
