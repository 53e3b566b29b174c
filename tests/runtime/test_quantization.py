"""Quantized values, against numpy in float64 and against torch's own quantization."""

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.runtime import quantization
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def parameters(data: Any, x: np.ndarray, kind: str, scale_type: Any) -> tuple[dict[str, Any], Any, Any]:
    """Scale, zero point and axis as constants, and the first two as they are broadcast to x."""
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    length = () if axis is None else (x.shape[axis],)
    # Powers of two: a quotient that lies between two numbers is exact, and so is a half.
    powers = st.integers(-4, 1).map(lambda n: 2.0**n)
    several = length[0] if length else 1
    scale = np.array(data.draw(st.lists(powers, min_size=several, max_size=several)), scale_type).reshape(length)
    constants: dict[str, Any] = {"scale": scale if length else scale_type(scale)}
    zero = np.zeros(length)
    if data.draw(st.booleans()):
        zero = data.draw(arrays(length, kind, *LIMITS[kind]))
        constants["zero_point"] = zero
    if axis is not None:
        constants["axis"] = np.int32(axis)
    wide = [-1 if a == (axis or 0) % x.ndim else 1 for a in range(x.ndim)] if length else []
    return constants, scale.astype(np.float64).reshape(wide), zero.astype(np.float64).reshape(wide)


@covers("quantize")
@given(data=st.data())
def test_quantize(data: Any) -> None:
    """clip(round(x / scale) + zero_point), halves to even: -0.5, 0.5, 1.5 and 2.5 become 0, 0, 2 and 2."""
    kind = data.draw(st.sampled_from(sorted(LIMITS)))
    float_type = data.draw(st.sampled_from([np.float32, np.float16]))
    x = (data.draw(arrays(dtype=np.int32, low=-130, high=130)) / 4).astype(float_type)
    constants, scale, zero = parameters(data, x, kind, float_type)
    expected = np.clip(np.rint(x.astype(np.float64) / scale) + zero, *LIMITS[kind]).astype(np.int32)
    opset = data.draw(st.sampled_from([7, 8, 9]))
    close(run("quantize", {"input": x}, opset=opset, **constants, output_dtype=kind), expected)


@covers("dequantize")
@given(data=st.data())
def test_dequantize(data: Any) -> None:
    """scale * (x - zero_point), on values that the program quantizes first."""
    kind = data.draw(st.sampled_from(sorted(LIMITS)))
    whole = data.draw(arrays(dtype=np.int32, low=LIMITS[kind][0], high=LIMITS[kind][1])).astype(np.float32)
    constants, scale, zero = parameters(data, whole, kind, np.float32)

    def build(x: Any) -> Any:
        return mb.dequantize(input=mb.quantize(input=x, scale=np.float32(1), output_dtype=kind), **constants)

    opset = data.draw(st.sampled_from([7, 8, 9]))
    close(run_graph(build, {"x": whole}, opset=opset)[0], np.float32(scale * (whole - zero)))


@covers("dequantize")
@given(data=st.data())
def test_dequantize_weights(data: Any) -> None:
    """As linear layers of compressed activations have them: the values are a constant."""
    kind = data.draw(st.sampled_from(sorted(LIMITS)))
    weights = data.draw(arrays(dtype=kind, low=LIMITS[kind][0], high=LIMITS[kind][1]))
    constants, scale, zero = parameters(data, weights, kind, np.float16)
    close(run("dequantize", {}, input=weights, **constants), np.float32(scale * (weights - zero)))


@covers("quantize", "dequantize")
def test_there_and_back() -> None:
    """There and back again, as torch's quantization-aware training does it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 3, 3)).astype(np.float32)
    scale, zero = rng.uniform(0.001, 0.1, 3).astype(np.float32), rng.integers(-5, 6, 3).astype(np.int8)
    for axis in (0, 1, -1):
        constants = {"scale": scale, "zero_point": zero, "axis": np.int32(axis)}

        def build(x: Any, constants: dict[str, Any] = constants) -> Any:
            return mb.dequantize(input=mb.quantize(input=x, output_dtype="int8", **constants), **constants)

        steps, zeros = torch.tensor(scale), torch.tensor(zero.astype(np.int32))
        expected = torch.fake_quantize_per_channel_affine(torch.tensor(x), steps, zeros, axis % 3, -128, 127)
        close(run_graph(build, {"x": x})[0], expected)


@covers("quantize")
def test_what_is_no_number() -> None:
    """NaN becomes the zero point; infinities become the least and the greatest number."""
    x = np.array([np.nan, -np.inf, np.inf, 1e30], np.float32)
    result = run("quantize", {"input": x}, scale=np.float32(0.5), zero_point=np.uint8(7), output_dtype="uint8")
    close(result, np.array([7, 0, 255, 255], np.int32))


def test_what_cannot_be_is_said() -> None:
    x, ones = torch.ones(2, 3), torch.ones
    with pytest.raises(ValueError, match="output_dtype is 'int4'"):
        quantization.quantize(x, ones(()), "int4")
    with pytest.raises(ValueError, match="goes with an axis"):
        quantization.dequantize(x, ones(3))
    with pytest.raises(ValueError, match="2 values for the axis 1"):
        quantization.dequantize(x, ones(2), axis=1)


FAULTS: dict[str, list[Fault]] = {
    "quantize": [
        (".round()", ".add(0.5).floor()"),
        (".round()", ".trunc()"),
        ("steps + _along(zero_point, axis, input)", "steps - _along(zero_point, axis, input)"),
        ("RANGES[output_dtype])", 'RANGES["int8"])'),
        ("(-128, 127)", "(-127, 127)"),
        (".nan_to_num(0)", ".nan_to_num(1)"),
        ("(input / _along(scale, axis, input)).round()", "input.round() / _along(scale, axis, input)"),
        ("-1 if place == axis % x.ndim", "-1 if place == axis"),
    ],
    "dequantize": [
        ("shifted * _along(scale, axis, input)", "shifted / _along(scale, axis, input)"),
        ("shifted * _along(scale, axis, input)", "shifted * scale.reshape(-1)[0]"),
        ("input.float() - _along", "input.float() + _along"),
        ("- _along(zero_point, axis, input)", "- zero_point.reshape(-1)[0]"),
        ("-1 if place == axis % x.ndim", "-1 if place == axis"),
    ],
}
