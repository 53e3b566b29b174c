"""Quantized values (coremltools: ops/defs/iOS17/quantization_ops.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import operation

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@operation
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    shifted = input.float() if zero_point is None else input.float() - _along(zero_point, axis, input)
    return shifted * _along(scale, axis, input)


@operation
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """Numbers halfway between two integers are rounded to the even one. NaN becomes the zero point."""
    if output_dtype not in RANGES:
        raise ValueError(f"output_dtype is {output_dtype!r}; it must be one of {', '.join(RANGES)}")
    steps = (input / _along(scale, axis, input)).round().nan_to_num(0)
    shifted = steps if zero_point is None else steps + _along(zero_point, axis, input)
    return shifted.clamp(*RANGES[output_dtype]).to(torch.int32)


def _along(value: Tensor, axis: int | None, x: Tensor) -> Tensor:
    """A number, or one for each place along an axis of x."""
    if value.ndim == 0:
        return value
    if value.ndim != 1 or axis is None:
        raise ValueError(f"values of the shape {tuple(value.shape)} for the axis {axis}; a vector goes with an axis")
    if len(value) != x.shape[axis]:
        raise ValueError(f"{len(value)} values for the axis {axis} of {tuple(x.shape)}")
    return value.reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])
