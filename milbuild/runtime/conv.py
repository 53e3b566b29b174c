"""Convolutions (coremltools: ops/defs/iOS15/conv.py, iOS17/conv.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    ones = [1] * (x.ndim - 2)
    strides, dilations = strides or ones, dilations or ones
    around = padding(pad_type, pad, x.shape[2:], _extents(weight, dilations), strides)
    before = [low for low, _ in around]
    if any(low != high for low, high in around):
        x, before = F.pad(x, inner_first(around)), [0] * len(around)
    return torch.convolution(x, weight, bias, strides, before, dilations, False, [0] * len(ones), groups)


@operation
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: list[int] | None = None,
    output_shape: list[int] | None = None,
    pad_type: str = "valid",
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """The whole gradient of a convolution, cropped as `pad_type` says; beyond it there is nothing but the bias.

    Where `output_shape` asks for another size, `same` crops as tensorflow does (what the size leaves over, half on each
    side), `valid` and `custom` keep where the result begins.
    """
    rank = x.ndim - 2
    ones, zeros = [1] * rank, [0] * rank
    strides, dilations = strides or ones, dilations or ones
    y = torch.convolution(x, weight, None, strides, zeros, dilations, True, zeros, groups)
    if pad_type == "custom":
        crop = _pairs(pad or zeros + zeros)
    elif pad_type in ("valid", "same", "same_lower"):
        crop = [(0, 0)] * rank
    else:
        raise ValueError(f"pad_type is {pad_type!r}; it must be one of valid, same, same_lower, custom")
    if output_shape is not None:
        sizes = output_shape[-rank:]
    elif pad_type in ("same", "same_lower"):
        sizes = [n * stride for n, stride in zip(x.shape[2:], strides, strict=True)]
    else:
        sizes = [n - low - high for n, (low, high) in zip(y.shape[2:], crop, strict=True)]
    if pad_type in ("same", "same_lower"):
        crop = [_split(max(0, n - size), pad_type) for n, size in zip(y.shape[2:], sizes, strict=True)]
    ends = [(-low, low + size - n) for n, (low, _), size in zip(y.shape[2:], crop, sizes, strict=True)]
    y = F.pad(y, inner_first(ends))
    return y if bias is None else y + bias.reshape(-1, *ones)


def padding(
    pad_type: str, pad: list[int] | None, sizes: torch.Size, extents: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    """The padding before and after every spatial axis.

    `same` pads as tensorflow does: no more than ceil(size / stride) windows need. (The documentation of conv gives a formula
    that does not look at the stride; coremltools' own shapes, and its translation of tensorflow's SAME, go by this one.)
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return _pairs(pad or [0, 0] * len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type is {pad_type!r}; it must be one of valid, same, same_lower, custom")
    windows = [-(-n // stride) for n, stride in zip(sizes, strides, strict=True)]
    wanted = [(w - 1) * stride + extent for w, stride, extent in zip(windows, strides, extents, strict=True)]
    return [_split(max(0, want - n), pad_type) for want, n in zip(wanted, sizes, strict=True)]


def inner_first(around: list[tuple[int, int]]) -> list[int]:
    """As torch's pad wants it: the last axis first."""
    return [n for pair in reversed(around) for n in pair]


def _split(total: int, pad_type: str) -> tuple[int, int]:
    low = (total + 1) // 2 if pad_type == "same_lower" else total // 2
    return low, total - low


def _pairs(pad: list[int]) -> list[tuple[int, int]]:
    return list(zip(pad[::2], pad[1::2], strict=True))


def _extents(weight: Tensor, dilations: list[int]) -> list[int]:
    return [(k - 1) * dilation + 1 for k, dilation in zip(weight.shape[2:], dilations, strict=True)]
