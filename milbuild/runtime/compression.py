"""Compressed weights, decoded (coremltools: ops/defs/iOS16/constexpr_ops.py, iOS18/compression.py).

Up to iOS17 indices and masks are packed bits with the shape of the tensor; from iOS18 on they are tensors of
types of few bits, which reading a package has unpacked. Whether there is a `shape` tells one form from the other.
"""

import math

import torch
from torch import Tensor

from milbuild.package.storage import unpack
from milbuild.runtime.quantization import dequantize
from milbuild.runtime.registry import operation


@operation
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    return dequantize(quantized_data, scale, zero_point, axis)


@operation
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    shifted = data.float() if offset is None else data.float() - _spread(offset, data.shape)
    return shifted * _spread(scale, data.shape)


@operation
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    if output_dtype != "fp32":
        raise ValueError(f"output_dtype is {output_dtype!r}; it must be fp32")
    return source_val


@operation
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: list[int] | None = None, vector_axis: int | None = None
) -> Tensor:
    if shape is not None:
        return lut[_unpacked(indices, (len(lut) - 1).bit_length(), shape)]
    if lut.ndim != indices.ndim + 2:
        raise ValueError(f"lut of {lut.ndim} axes does not fit indices of {indices.ndim}")
    *blocks, palettes, length = lut.shape
    # The tables are concatenated; an element's index begins at the table of its block.
    first = torch.arange(math.prod(blocks), dtype=torch.int32).reshape(blocks) * palettes
    vectors = lut.reshape(-1, length)[indices + _spread(first, indices.shape)]
    if length == 1:
        return vectors[..., 0]
    if vector_axis is None:
        raise ValueError(f"lut holds vectors of {length}, and vector_axis does not say along which axis")
    axis = vector_axis % indices.ndim
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operation
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, None, vector_axis)
    mask = indices_mask if vector_axis is None else indices_mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


@operation
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


@operation
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: list[int] | None = None) -> Tensor:
    filled = (mask if shape is None else _unpacked(mask, 1, shape)) != 0
    count = int(filled.sum())
    if nonzero_data.numel() != count:
        raise ValueError(f"the mask has {count} places for {nonzero_data.numel()} values")
    return torch.zeros(filled.shape, dtype=nonzero_data.dtype).masked_scatter_(filled, nonzero_data)


def _unpacked(data: Tensor, bits: int, shape: list[int]) -> Tensor:
    """Numbers of a few bits from the bytes that hold them."""
    count = math.prod(shape)
    if data.numel() != -(-count * bits // 8):
        raise ValueError(f"{data.numel()} bytes do not hold {count} numbers of {bits} bits")
    return torch.from_numpy(unpack(data.to(torch.uint8).numpy(), bits, count)).to(torch.int32).reshape(shape)


def _spread(blocks: Tensor, shape: torch.Size) -> Tensor:
    """What fits a tensor of this shape by broadcasting: each entry of `blocks` repeated for all elements of its block."""
    if blocks.ndim != len(shape) or any(n % max(1, count) for n, count in zip(shape, blocks.shape, strict=True)):
        raise ValueError(f"{tuple(blocks.shape)} blocks do not fit the shape {tuple(shape)}")
    for axis, (n, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        if 1 < count < n:
            blocks = blocks.repeat_interleave(n // count, axis)
    return blocks
