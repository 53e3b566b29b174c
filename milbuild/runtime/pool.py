"""Pooling (coremltools: ops/defs/iOS15/pool.py)."""

import math

import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.conv import inner_first, padding
from milbuild.runtime.registry import operation

AVERAGE = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}  # by the rank of x
MAXIMUM = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}


@operation
def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """Padding counts in the average unless it is excluded; what ceil_mode adds after it never does, as in torch."""
    strides = strides or [1] * len(kernel_sizes)
    around, beyond = _surroundings(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = F.pad(x.new_ones(1, 1, *x.shape[2:]), around, value=0.0 if exclude_padding_from_average else 1.0)
    mean = AVERAGE[x.ndim]
    total, share = (F.pad(y, beyond) for y in (F.pad(x, around), counted))
    return mean(total, kernel_sizes, strides) / mean(share, kernel_sizes, strides)


@operation
def l2_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or [1] * len(kernel_sizes)
    around, beyond = _surroundings(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    squares = F.pad(F.pad(x.square(), around), beyond)
    return (AVERAGE[x.ndim](squares, kernel_sizes, strides) * math.prod(kernel_sizes)).sqrt()


@operation
def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or [1] * len(kernel_sizes)
    around, beyond = _surroundings(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    x = F.pad(F.pad(x, around, value=-math.inf), beyond, value=-math.inf)
    return MAXIMUM[x.ndim](x, kernel_sizes, strides)


def _surroundings(
    x: Tensor, kernel_sizes: list[int], strides: list[int], pad_type: str, pad: list[int] | None, ceil_mode: bool
) -> tuple[list[int], list[int]]:
    """The padding, and what ceil_mode adds after it so that the last window, which may be partial, is a whole one."""
    around = padding(pad_type.lower(), pad, x.shape[2:], kernel_sizes, strides)
    beyond = [0] * len(around)
    for axis, (size, kernel, stride) in enumerate(zip(x.shape[2:], kernel_sizes, strides, strict=True)):
        if not ceil_mode:
            continue
        padded = size + sum(around[axis])
        last = -(-(padded - kernel) // stride) * stride  # where the last window begins
        if padded > size and 2 * last >= size + padded:
            last -= stride  # coremltools, aggregated over both sides: last >= size + pad / 2
        if last >= padded:
            raise ValueError(f"ceil_mode asks for a window past the end of axis {axis + 2}, whose value is undefined")
        beyond[axis] = max(0, last + kernel - padded)
    return inner_first(around), inner_first([(0, more) for more in beyond])
