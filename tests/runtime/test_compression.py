"""Decoded weights, against loops over single elements written from the documentation."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milbuild.runtime import compression
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

# How values of few bits are handed to coremltools, and their least and greatest values.
FEW = {
    name: types.nptype_from_builtin(types.string_to_builtin(name))
    for name in ("uint1", "uint2", "uint3", "uint4", "uint6", "uint8", "int4", "int8", "fp16", "fp32")
}
RANGE = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "fp16": (-10, 10),
    "fp32": (-10, 10),
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (1, 2, 3, 4, 6, 8)},
}
sources = st.sampled_from(["int4", "uint4", "int8", "uint8", "fp16", "fp32"])
floats = st.sampled_from([np.float16, np.float32])


def few(data: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a type of MIL, as coremltools takes it; the same numbers can be read as int8 or uint8.

    Drawn by numpy from a seed: a table of 256 vectors is too much for hypothesis.
    """
    rng, (low, high) = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), RANGE[name]
    if name in ("fp16", "fp32"):
        return np.asarray(rng.uniform(low, high, shape)).astype(FEW[name])
    return np.asarray(rng.integers(low, high + 1, shape)).astype(FEW[name])


def plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def shapes(ranks: tuple[int, int] = (1, 4)) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=ranks[0], max_dims=ranks[1], max_side=6)


def blocked(data: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of blocks along each axis: divisors of the lengths."""
    return tuple(data.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0])) for n in shape)


def block(place: tuple[int, ...], shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[int, ...]:
    """The block of an element: floor(i / block size)."""
    return tuple(i // (n // count) for i, n, count in zip(place, shape, blocks, strict=True))


def places(shape: tuple[int, ...]) -> Any:
    return product(*(range(n) for n in shape))


def packed(numbers: list[int], bits: int) -> np.ndarray:
    """The first number in the lowest bits of the first byte, and on across the borders of bytes."""
    whole = sum(number << (bits * index) for index, number in enumerate(numbers))
    return np.frombuffer(whole.to_bytes(-(-len(numbers) * bits // 8), "little"), np.uint8)


def by_lut(
    indices: np.ndarray, lut: np.ndarray, vector_axis: int | None, filled: np.ndarray | None = None
) -> np.ndarray:
    """The dense tensor of an iOS18 table, with NaN where an index is absent."""
    shape, blocks, length = indices.shape, lut.shape[:-2], lut.shape[-1]
    axis = 0 if vector_axis is None else vector_axis % len(shape)
    dense = np.full([n * length if a == axis else n for a, n in enumerate(shape)], np.nan)
    for place in places(shape):
        if filled is not None and not filled[place]:
            continue
        vector = lut[block(place, shape, blocks)][int(indices[place])]
        for step in range(length):
            target = list(place)
            target[axis] = place[axis] * length + step
            dense[tuple(target)] = vector[step]
    return dense


def decoded(result: Any, expected: np.ndarray, kind: Any) -> None:
    """Values of a table or of a mask are the very same; whole numbers leave the runtime as int32."""
    wanted = expected.astype(np.int32 if np.dtype(kind).kind in "iu" else np.float32)
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


@covers("constexpr_affine_dequantize")
@given(data=st.data())
def test_affine_dequantize(data: Any) -> None:
    shape = data.draw(shapes())
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind, kind_zero = (data.draw(st.sampled_from(choice)) for choice in (["int8", "uint8"], ["int8", "uint8", "fp32"]))
    several = (shape[axis],) if data.draw(st.booleans()) else ()
    several_zeros = (shape[axis],) if data.draw(st.booleans()) else ()
    values, zero = few(data, kind, shape), few(data, kind_zero, several_zeros)
    scale = data.draw(arrays(several, data.draw(floats), 0.01, 2))
    expected = np.empty(shape)
    for place in places(shape):
        at = place[axis]
        expected[place] = plain(scale)[at if several else ()] * (
            plain(values)[place] - plain(zero)[at if several_zeros else ()]
        )
    result = run(
        "constexpr_affine_dequantize",
        {},
        opset=data.draw(st.sampled_from([6, 7, 8, 9])),
        quantized_data=values,
        zero_point=zero,
        scale=scale,
        axis=np.int32(axis),
    )
    close(result, expected.astype(np.float32), 1e-6)


@covers("constexpr_affine_dequantize")
def test_affine_dequantize_to_float16() -> None:
    """The result has the type of the scale, to which the engine rounds it."""
    values = np.arange(-128, 128, dtype=np.int8)
    constants = {"quantized_data": values, "zero_point": np.int8(-7), "scale": np.float16(0.1234), "axis": np.int32(0)}
    result = run("constexpr_affine_dequantize", {}, opset=6, precision="declared", **constants)
    expected = np.float16(np.float64(np.float16(0.1234)) * (values.astype(np.float64) + 7))
    np.testing.assert_array_equal(result, expected.astype(np.float32))


@covers("constexpr_cast")
@given(values=arrays(dtype=np.float16, ranks=(0, 4)), opset=st.sampled_from([6, 7, 8, 9]))
def test_cast(values: np.ndarray, opset: int) -> None:
    result = run("constexpr_cast", {}, opset=opset, precision="declared", source_val=values, output_dtype="fp32")
    decoded(result, values, np.float32)


@covers("constexpr_lut_to_dense")
@given(data=st.data())
def test_packed_lut_to_dense(data: Any) -> None:
    """Until iOS17: indices of 1, 2, 4, 6 or 8 bits in bytes."""
    shape, bits = data.draw(shapes()), data.draw(st.sampled_from([1, 2, 4, 6, 8]))
    kind = data.draw(st.sampled_from(["int8", "uint8", "fp16", "fp32"]))
    indices = few(data, f"uint{bits}", shape).astype(np.int32)
    table = few(data, kind, (2**bits,))
    result = run(
        "constexpr_lut_to_dense",
        {},
        opset=data.draw(st.sampled_from([6, 7])),
        indices=packed(indices.reshape(-1).tolist(), bits),
        lut=table,
        shape=np.array(shape, np.uint32),
    )
    decoded(result, plain(table)[indices], FEW[kind])


@covers("constexpr_lut_to_dense")
@given(data=st.data())
def test_lut_to_dense(data: Any) -> None:
    shape, bits = data.draw(shapes()), data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    kind = data.draw(st.sampled_from(["int8", "uint8", "fp16", "fp32"]))
    length = data.draw(st.sampled_from([1, 1, 2, 3]))
    indices = few(data, f"uint{bits}", shape)
    table = few(data, kind, (*blocked(data, shape), 2**bits, length))
    along = data.draw(st.integers(-len(shape), len(shape) - 1))
    axis = along if length > 1 or data.draw(st.booleans()) else None
    constants = {} if axis is None else {"vector_axis": np.int32(axis)}
    opset = data.draw(st.sampled_from([8, 9]))
    result = run("constexpr_lut_to_dense", {}, opset=opset, indices=indices, lut=table, **constants)
    decoded(result, by_lut(indices, plain(table), axis), FEW[kind])


@covers("constexpr_sparse_to_dense")
@given(data=st.data())
def test_packed_sparse_to_dense(data: Any) -> None:
    """Until iOS17: a mask of packed bits."""
    shape, kind = data.draw(shapes()), data.draw(st.sampled_from(["int8", "uint8", "fp16", "fp32"]))
    filled = data.draw(hnp.arrays(np.bool_, shape))
    filled.flat[0] = True  # coremltools takes no empty tensor
    values = few(data, kind, (int(filled.sum()),))
    result = run(
        "constexpr_sparse_to_dense",
        {},
        opset=data.draw(st.sampled_from([6, 7])),
        nonzero_data=values,
        mask=packed(filled.reshape(-1).astype(int).tolist(), 1),
        shape=np.array(shape, np.uint32),
    )
    decoded(result, scattered(plain(values), filled), FEW[kind])


@covers("constexpr_sparse_to_dense")
@given(data=st.data())
def test_sparse_to_dense(data: Any) -> None:
    shape, kind = data.draw(shapes()), data.draw(sources)
    filled = data.draw(hnp.arrays(np.bool_, shape))
    filled.flat[-1] = True
    values = few(data, kind, (int(filled.sum()),))
    opset = data.draw(st.sampled_from([8, 9]))
    mask = filled.astype(FEW["uint1"])
    result = run("constexpr_sparse_to_dense", {}, opset=opset, nonzero_data=values, mask=mask)
    decoded(result, scattered(plain(values), filled), FEW[kind])


def scattered(values: np.ndarray, filled: np.ndarray) -> np.ndarray:
    queue = iter(values.tolist())
    return np.array([next(queue) if there else 0 for there in filled.reshape(-1)]).reshape(filled.shape)


@covers("constexpr_blockwise_shift_scale")
@given(data=st.data())
def test_blockwise_shift_scale(data: Any) -> None:
    shape, kind = data.draw(shapes()), data.draw(sources)
    blocks = blocked(data, shape)
    values, scale = few(data, kind, shape), data.draw(arrays(blocks, data.draw(floats), 0.01, 2))
    constants = {}
    if data.draw(st.booleans()):
        constants["offset"] = few(data, data.draw(st.sampled_from([kind, "fp16", "fp32"])), blocks)
    expected = np.empty(shape)
    offset = plain(constants.get("offset", np.zeros(blocks)))
    for place in places(shape):
        its = block(place, shape, blocks)
        expected[place] = plain(scale)[its] * (plain(values)[place] - offset[its])
    opset = data.draw(st.sampled_from([8, 9]))
    result = run("constexpr_blockwise_shift_scale", {}, opset=opset, data=values, scale=scale, **constants)
    close(result, expected.astype(np.float32), 1e-6)


@covers("constexpr_lut_to_sparse")
@given(data=st.data())
def test_lut_to_sparse(data: Any) -> None:
    """Its results are those of constexpr_lut_to_dense where the mask is set, in the order of the dense tensor."""
    shape, bits = data.draw(shapes((1, 3))), data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    kind = data.draw(st.sampled_from(["int8", "uint8", "fp16", "fp32"]))
    length = data.draw(st.sampled_from([1, 2, 3]))
    filled = data.draw(hnp.arrays(np.bool_, shape))
    filled.flat[0] = True
    nonzero = few(data, f"uint{bits}", (int(filled.sum()),))
    table = few(data, kind, (*blocked(data, shape), 2**bits, length))
    along = data.draw(st.integers(-len(shape), len(shape) - 1))
    axis = along if length > 1 or data.draw(st.booleans()) else None
    constants = {} if axis is None else {"vector_axis": np.int32(axis)}
    dense = by_lut(scattered(plain(nonzero), filled), plain(table), axis, filled)
    mask, values = run(
        "constexpr_lut_to_sparse",
        {},
        indices_mask=filled.astype(FEW["uint1"]),
        indices_nonzero_data=nonzero,
        lut=table,
        **constants,
    )
    decoded(mask, ~np.isnan(dense), np.uint8)
    decoded(values, dense[~np.isnan(dense)], FEW[kind])


@covers("constexpr_sparse_blockwise_shift_scale")
@given(data=st.data())
def test_sparse_blockwise_shift_scale(data: Any) -> None:
    shape, kind = data.draw(shapes((1, 3))), data.draw(sources)
    blocks = blocked(data, shape)
    filled = data.draw(hnp.arrays(np.bool_, shape))
    filled.flat[0] = True
    nonzero = few(data, kind, (int(filled.sum()),))
    scale = data.draw(arrays(blocks, data.draw(floats), 0.01, 2))
    constants = {}
    if data.draw(st.booleans()):
        constants["offset"] = few(data, data.draw(st.sampled_from([kind, "fp16", "fp32"])), blocks)
    offset = plain(constants.get("offset", np.zeros(blocks)))
    expected, queue = [], iter(plain(nonzero).tolist())
    for place in places(shape):
        if filled[place]:
            its = block(place, shape, blocks)
            expected.append(plain(scale)[its] * (next(queue) - offset[its]))
    mask, values = run(
        "constexpr_sparse_blockwise_shift_scale",
        {},
        data_mask=filled.astype(FEW["uint1"]),
        nonzero_data=nonzero,
        scale=scale,
        **constants,
    )
    decoded(mask, filled, np.uint8)
    close(values, np.float32(expected), 1e-6)


def test_one_after_the_other() -> None:
    """A table of quantized values; sparse weights with palettes, and quantized ones: each result is the next one's argument."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 4, (4, 6))
    quantized, scale = rng.integers(-8, 8, (2, 1, 4, 1)), rng.random((2, 1, 1, 1)).astype(np.float32)
    filled = rng.random((4, 6)) < 0.5
    nonzero = indices[filled]

    def build() -> list[Any]:
        table = mb.constexpr_blockwise_shift_scale(data=quantized.astype(FEW["int4"]), scale=scale)
        mask = filled.astype(FEW["uint1"])
        dense = mb.constexpr_lut_to_dense(indices=indices.astype(FEW["uint2"]), lut=table)
        mask_2, picked = mb.constexpr_lut_to_sparse(
            indices_mask=mask, indices_nonzero_data=nonzero.astype(FEW["uint2"]), lut=scale.repeat(4, 2)
        )
        mask_3, shifted = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=nonzero.astype(FEW["uint4"]), scale=scale[..., 0, 0]
        )
        sparse = mb.constexpr_sparse_to_dense(nonzero_data=picked, mask=mask_2)
        return [dense, sparse, mb.constexpr_sparse_to_dense(nonzero_data=shifted, mask=mask_3)]

    dense, sparse, shifted = run_graph(build, {})
    rows = np.repeat(scale[..., 0, 0], 2, 0)
    close(dense, by_lut(indices, quantized * scale, None).astype(np.float32), 1e-6)
    close(sparse, np.float32(filled * rows), 1e-6)
    close(shifted, np.float32(filled * indices * rows), 1e-6)


def test_what_cannot_be_is_said() -> None:
    ones = torch.ones
    two = torch.ones(2, dtype=torch.int32)
    with pytest.raises(ValueError, match="output_dtype is 'fp64'"):
        compression.constexpr_cast(ones(1), "fp64")
    with pytest.raises(ValueError, match="mask has 2 places for 3 values"):
        compression.constexpr_sparse_to_dense(ones(3), two)
    with pytest.raises(ValueError, match="2 bytes do not hold 5 numbers of 1 bits"):
        compression.constexpr_sparse_to_dense(ones(3), two, [5])
    with pytest.raises(ValueError, match="lut of 2 axes"):
        compression.constexpr_lut_to_dense(two, ones(2, 1))
    with pytest.raises(ValueError, match="vector_axis does not say"):
        compression.constexpr_lut_to_dense(two, ones(1, 2, 2))
    with pytest.raises(ValueError, match=r"\(3,\) blocks do not fit the shape \(2,\)"):
        compression.constexpr_blockwise_shift_scale(two, ones(3))
    with pytest.raises(ValueError, match=r"blocks do not fit"):
        compression.constexpr_blockwise_shift_scale(two, ones(1, 1))


FAULTS: dict[str, list[Fault]] = {
    "constexpr_affine_dequantize": [
        ("scale, zero_point, axis", "scale, None, axis"),
        ("scale, zero_point, axis", "scale, zero_point.to(torch.int8), axis"),
        ("scale, zero_point, axis", "scale, zero_point, axis - 1"),
        ("scale, zero_point, axis", "scale.max(), zero_point, axis"),
    ],
    "constexpr_blockwise_shift_scale": [
        ("shifted * _spread(scale, data.shape)", "shifted * scale.reshape(-1)[0]"),
        ("data.float() - _spread", "data.float() + _spread"),
        ("if 1 < count < n:", "if 1 < count <= n // 3:"),
        ("blocks.repeat_interleave(n // count, axis)", "torch.cat([blocks] * (n // count), axis)"),
    ],
    "constexpr_cast": [("return source_val", "return source_val.round()"), ("return source_val", "return -source_val")],
    "constexpr_lut_to_dense": [
        ("(len(lut) - 1).bit_length()", "max(2, (len(lut) - 1).bit_length())"),
        ("(len(lut) - 1).bit_length()", "min(4, (len(lut) - 1).bit_length())"),
        ("indices + _spread(first, indices.shape)", "indices"),
        (".reshape(blocks) * palettes", ".reshape(blocks)"),
        ("vectors.movedim(-1, axis + 1)", "vectors.movedim(-1, axis)"),
        ("vector_axis % indices.ndim", "vector_axis % 2 % indices.ndim"),
        ("blocks.repeat_interleave(n // count, axis)", "torch.cat([blocks] * (n // count), axis)"),
    ],
    "constexpr_lut_to_sparse": [
        ("dense[mask != 0]", "dense[dense != 0]"),
        ("indices_mask.repeat_interleave(lut.shape[-1], vector_axis)", "torch.ones(dense.shape, dtype=torch.int32)"),
        ("return mask, dense[mask != 0]", "return indices_mask, dense[mask != 0]"),
        ("lut, None, vector_axis", "lut.flip(-1), None, vector_axis"),
    ],
    "constexpr_sparse_blockwise_shift_scale": [
        ("dense[data_mask != 0]", "dense[dense != 0]"),
        ("nonzero_data, data_mask), scale, offset", "nonzero_data, data_mask), scale"),
        ("return data_mask, dense", "return dense != 0, dense"),
    ],
    "constexpr_sparse_to_dense": [
        ("_unpacked(mask, 1, shape)", "_unpacked(mask, 1, shape[::-1])"),
        ("torch.zeros(", "torch.ones("),
        ("masked_scatter_(filled, nonzero_data)", "masked_scatter_(filled, nonzero_data.flip(0))"),
        ("if shape is None else", "if shape is None or len(shape) == 1 else"),
    ],
}
