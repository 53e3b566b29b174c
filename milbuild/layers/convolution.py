"""Convolutions, with or without a batch norm after them, and pooling. The layout is (B, C, H, W)."""

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.linear import constant
from milbuild.weights import Cursor, Rowwise, Tensor
from milbuild.weights.fields import Config

# Above and below, left and right.
Padding = int | tuple[int, int, int, int]


def convolution(
    x: Var, w: Cursor, width: int, kernel: int | tuple[int, int], *, bias: bool = True, groups: int = 1, **how: Any
) -> Var:
    """(B, C, H, W) -> (B, width, H', W'). `how`: stride, padding, dilation as torch.nn.Conv2d has them."""
    weight = w.tensor("weight", width, x.shape[1] // groups, *pair(kernel))
    return _conv(x, w, weight, w.tensor("bias", width) if bias else None, groups, w.name, **how)


def convolution_norm(
    x: Var,
    w: Cursor,
    norm: Cursor,
    width: int,
    kernel: int | tuple[int, int],
    epsilon: float,
    *,
    bias: bool = False,
    groups: int = 1,
    **how: Any,
) -> Var:
    """A convolution and the batch norm `norm` after it as one convolution, called after the norm: its scale and shift
    become part of weight and bias."""
    raw = w.tensor("weight", width, x.shape[1] // groups, *pair(kernel))
    gamma, beta, mean, variance = (
        norm.tensor(name, width) for name in ("weight", "bias", "running_mean", "running_var")
    )

    def scaled(weight: np.ndarray, gamma: np.ndarray, variance: np.ndarray) -> np.ndarray:
        scale: np.ndarray = gamma / np.sqrt(variance + epsilon)
        folded: np.ndarray = weight * scale[:, None, None, None]
        return folded

    def shifted(gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, *old: np.ndarray) -> np.ndarray:
        shift: np.ndarray = beta + (sum(old) - mean) * gamma / np.sqrt(var + epsilon)
        return shift

    recipe = f"batch norm ({epsilon:g})"
    weight = Rowwise(recipe, scaled, raw.shape, raw, gamma, variance)
    old = (w.tensor("bias", width),) if bias else ()
    return _conv(
        x,
        w,
        weight,
        Rowwise(recipe, shifted, (width,), gamma, beta, mean, variance, *old),
        groups,
        norm.name,
        **how,
    )


def _conv(
    x: Var,
    w: Cursor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    name: str,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> Var:
    pad = [padding] * 4 if isinstance(padding, int) else list(padding)
    for side, kernel, around in zip(x.shape[2:], weight.shape[2:], (sum(pad[:2]), sum(pad[2:])), strict=True):
        if side + around < dilation * (kernel - 1) + 1:
            hint = "Build it with a larger image_size."
            raise Error(f"{w.path}: the image is too small; {side} pixels are left for a kernel of {kernel}", hint)
    arguments: dict[str, Any] = {} if bias is None else {"bias": constant(bias, w, "bias")}
    if padding not in (0, (0, 0, 0, 0)):
        arguments |= {"pad_type": "custom", "pad": pad}
    return mb.conv(
        x=x,
        weight=constant(weight, w, "weight"),
        strides=list(pair(stride)),
        dilations=[dilation, dilation],
        groups=groups,
        name=name,
        **arguments,
    )


def transposed_convolution(
    x: Var, w: Cursor, weight: Tensor, *, bias: bool = True, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Var:
    """(B, C, T) -> (B, D, T'), or (B, C, H, W) -> (B, D, H', W'), with a weight (C, D, kernel) or (C, D, height, width), as
    torch.nn.ConvTranspose1d and ConvTranspose2d have it: T' = (T - 1) stride - 2 padding + kernel + output_padding.

    Needed by DPT and ViTMatte (2-D), VITS, UnivNet, SpeechT5's vocoder and the audio codecs (1-D, whose weight may be a
    computed one; output_padding, which is never more than padding: UnivNet, X-Codec).
    """
    if output_padding > padding:
        raise AssertionError(f"{w.path}: output_padding {output_padding} is more than padding {padding}")
    sides = x.rank - 2
    arguments = {"bias": constant(w.tensor("bias", weight.shape[1]), w, "bias")} if bias else {}
    return mb.conv_transpose(
        x=x,
        weight=constant(weight, w, "weight"),
        strides=[stride] * sides,
        pad_type="custom",
        pad=[padding, padding - output_padding] * sides,
        name=w.name,
        **arguments,
    )


def pair(size: Any, field: str = "a size") -> tuple[int, int]:
    """One number for both sides, or two: (height, width). `field` is the configuration's that says so."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2:
        raise Error(f"{field} is {size!r}; it is one number, or height and width", "Look into config.json.")
    return both[0], both[1]


def tensorflow_padding(x: Var, kernel: int, stride: int, dilation: int) -> Padding:
    """Of a convolution of `x` (B, C, H, W) as TensorFlow pads: what is uneven goes below and to the right. The dilation
    multiplies what the kernel alone needs, as in transformers' MobileNets."""
    high, wide = (max(kernel - (side % stride or stride), 0) for side in x.shape[2:])
    top, left = high // 2 * dilation, wide // 2 * dilation
    return top, high * dilation - top, left, wide * dilation - left


def divisible(channels: int, step: int, least: int) -> int:
    """The multiple of `step` nearest to a number of channels, and at least `least`, unless that takes away more than a tenth."""
    nearest = max(least, int(channels + step / 2) // step * step)
    return int(nearest + step if nearest < 0.9 * channels else nearest)


def check_stages(config: Config, counting: str, *fields: str) -> None:
    """Raises `Error` where a field of the configuration has not an entry for each of its stages, of which there are as many
    as the field `counting` says or has entries."""
    said = getattr(config, counting)
    count = said if isinstance(said, int) else len(said)
    for field in fields:
        if len(getattr(config, field)) != count:
            entries = f"{len(getattr(config, field))} entries in {field}"
            raise Error(f"config.json has {count} stages by {counting}, and {entries}")


def max_pool(x: Var, w: Cursor, kernel: int, stride: int, padding: int) -> Var:
    """(B, C, H, W) -> (B, C, H', W')."""
    how = {"pad_type": "custom", "pad": [padding] * 4}
    return mb.max_pool(x=x, kernel_sizes=[kernel] * 2, strides=[stride] * 2, name=w.name, **how)


def channels_last(x: Var, w: Cursor) -> Var:
    """(B, C, H, W) -> (B, H, W, C)."""
    return mb.transpose(x=x, perm=[0, 2, 3, 1], name=w.name)


def channels_first(x: Var, w: Cursor) -> Var:
    """(B, H, W, C) -> (B, C, H, W)."""
    return mb.transpose(x=x, perm=[0, 3, 1, 2], name=w.name)


def average(x: Var, w: Cursor, keep: bool = True) -> Var:
    """(B, C, H, W) -> (B, C, 1, 1), or (B, C): the mean of each channel."""
    return mb.reduce_mean(x=x, axes=[2, 3], keep_dims=keep, name=w.name)
