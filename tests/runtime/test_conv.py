"""Convolutions, against sums over windows in numpy, as the documentation has them."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milbuild.errors import Error
from tests.runtime.harness import Fault, close, covers, run


def random(data: Any, *shape: int) -> np.ndarray:
    return np.random.default_rng(data.draw(st.integers(0, 2**16))).uniform(-2, 2, shape).astype(np.float32)


def same(size: int, extent: int, stride: int, pad_type: str) -> tuple[int, int]:
    """tensorflow's documentation of SAME."""
    total = max(extent - (size % stride or stride), 0)
    less, more = total // 2, total - total // 2
    return (less, more) if pad_type == "same" else (more, less)


def convolved(
    x: np.ndarray, weight: np.ndarray, around: list, strides: list, dilations: list, groups: int
) -> np.ndarray:
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *around])
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    counts = [(n - e) // s + 1 for n, e, s in zip(x.shape[2:], extents, strides, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[0], *counts))
    for place in itertools.product(*map(range, counts)):
        cut = tuple(slice(p * s, p * s + e, d) for p, s, e, d in zip(place, strides, extents, dilations, strict=True))
        for out in range(weight.shape[0]):
            group = out // (weight.shape[0] // groups)
            channels = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
            products = x[(slice(None), channels, *cut)] * weight[out]
            y[(slice(None), out, *place)] = products.reshape(len(x), -1).sum(1)
    return y


def spread(x: np.ndarray, weight: np.ndarray, strides: list, dilations: list, groups: int) -> np.ndarray:
    """Each element of x, times the weight, put where a convolution would have read it."""
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    counts = [(n - 1) * s + e for n, s, e in zip(x.shape[2:], strides, extents, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[1] * groups, *counts))
    for place in itertools.product(*map(range, x.shape[2:])):
        cut = tuple(slice(p * s, p * s + e, d) for p, s, e, d in zip(place, strides, extents, dilations, strict=True))
        for channel in range(x.shape[1]):
            group = channel // (x.shape[1] // groups)
            outs = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
            values = x[(slice(None), channel, *place)].astype(np.float64)
            y[(slice(None), outs, *cut)] += np.multiply.outer(values, weight[channel])
    return y


def every(data: Any, rank: int, low: int, high: int) -> list[int]:
    return data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))


@covers("conv")
@given(data=st.data())
def test_conv(data: Any) -> None:
    rank, opset, runtime_weight = (data.draw(st.sampled_from(s)) for s in ([1, 2, 3], [5, 6, 7, 8], [False, True]))
    pad_type = data.draw(st.sampled_from(["valid", "custom", "same", "same_lower"][: 3 if opset == 5 else 4]))
    groups, kernel = data.draw(st.integers(1, 3)), every(data, rank, 1, 4 - (rank > 2))
    optional: dict[str, Any] = {}
    if data.draw(st.booleans()):
        optional["strides"] = every(data, rank, 1, 3)
    if data.draw(st.booleans()) and not runtime_weight:
        optional["dilations"] = every(data, rank, 1, 2)
    if groups > 1 or data.draw(st.booleans()):
        optional["groups"] = groups
    if pad_type == "custom" or data.draw(st.booleans()):
        optional["pad"] = every(data, 2 * rank, 0, 2)  # heeded for custom only
    if pad_type != "valid" or data.draw(st.booleans()):
        optional["pad_type"] = pad_type
    strides, dilations = (optional.get(name, [1] * rank) for name in ("strides", "dilations"))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [e + more for e, more in zip(extents, every(data, rank, 0, 3 if rank < 3 else 1), strict=True)]
    around = [(0, 0)] * rank
    if pad_type == "custom":
        around = [tuple(optional["pad"][2 * i : 2 * i + 2]) for i in range(rank)]
    elif pad_type != "valid":
        around = [same(n, e, s, pad_type) for n, e, s in zip(sizes, extents, strides, strict=True)]
    x = random(data, data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2)), *sizes)
    weight = random(data, groups * data.draw(st.integers(1, 2)), x.shape[1] // groups, *kernel)
    expected = convolved(x, weight, around, strides, dilations, groups)
    if data.draw(st.booleans()):
        optional["bias"] = random(data, len(weight))
        expected += optional["bias"].reshape(-1, *[1] * rank)
    inputs = {"x": x}
    (inputs if runtime_weight else optional)["weight"] = weight
    if opset >= 7 and "bias" in optional and data.draw(st.booleans()):
        inputs["bias"] = optional.pop("bias")
    close(run("conv", inputs, opset=opset, **optional), expected.astype(np.float32))


@covers("conv_transpose")
@given(data=st.data())
def test_conv_transpose(data: Any) -> None:
    """Where output_shape asks for a size of its own, valid and custom begin where they would; same crops half on each side."""
    rank, opset = (data.draw(st.sampled_from(s)) for s in ([1, 2, 3], [5, 6, 7, 8]))
    pad_type = data.draw(st.sampled_from(["valid", "custom", "same"]))
    groups, kernel = data.draw(st.integers(1, 3)), every(data, rank, 1, 4 - (rank > 2))
    optional: dict[str, Any] = {}
    if data.draw(st.booleans()):
        optional["strides"] = every(data, rank, 1, 3)
    if data.draw(st.booleans()):
        optional["dilations"] = every(data, rank, 1, 2)
    if groups > 1 or data.draw(st.booleans()):
        optional["groups"] = groups
    if pad_type != "valid" or data.draw(st.booleans()):
        optional["pad_type"] = pad_type
    strides, dilations = (optional.get(name, [1] * rank) for name in ("strides", "dilations"))
    x = random(data, data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2)), *every(data, rank, 2, 3))
    weight = random(data, x.shape[1], data.draw(st.integers(1, 2)), *kernel)
    whole = spread(x, weight, strides, dilations, groups)
    pad = every(data, 2 * rank, 0, 1)
    pad = [0 if whole.shape[2 + i // 2] < 4 else n for i, n in enumerate(pad)]
    if pad_type == "custom" or data.draw(st.booleans()):
        optional["pad"] = pad  # heeded for custom only
    starts, sizes = [0] * rank, list(whole.shape[2:])
    if pad_type == "same":
        sizes = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    elif pad_type == "custom":
        starts, sizes = pad[::2], [n - low - high for n, low, high in zip(sizes, pad[::2], pad[1::2], strict=True)]
    if data.draw(st.booleans()):
        sizes = [max(1, n + more) for n, more in zip(sizes, every(data, rank, -1, 2), strict=True)]
        optional["output_shape"] = [x.shape[0], whole.shape[1], *sizes]
    if pad_type == "same":
        starts = [max(n - size, 0) // 2 for n, size in zip(whole.shape[2:], sizes, strict=True)]
    plenty = np.pad(whole, [(0, 0), (0, 0), *[(0, 9)] * rank])
    expected = plenty[(..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))].copy()
    if data.draw(st.booleans()):
        optional["bias"] = random(data, whole.shape[1])
        expected += optional["bias"].reshape(-1, *[1] * rank)
    inputs = {"x": x}
    (inputs if opset >= 7 and data.draw(st.booleans()) else optional)["weight"] = weight
    close(run("conv_transpose", inputs, opset=opset, **optional), expected.astype(np.float32))


def test_same_lower_transposed() -> None:
    """Not documented: it crops the greater half before, as the convolution pads it. coremltools wants output_shape with it."""
    x, weight = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 3), np.float32([[[1, 10, 100, 1000]]])
    whole = spread(x, weight, [1], [1], 1)
    assert whole.shape == (1, 1, 6)
    result = run("conv_transpose", {"x": x}, weight=weight, pad_type="same_lower", output_shape=[1, 1, 3])
    close(result, np.float32(whole[..., 2:5]))


def test_unknown_padding() -> None:
    x, weight = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    with pytest.raises(Error, match="pad_type is 'other'"):
        run("conv_transpose", {"x": x}, weight=weight, pad_type="other", output_shape=[1, 1, 4])


FAULTS: dict[str, list[Fault]] = {
    "conv": [
        ("before = [low for low, _ in around]", "before = [0 for low, _ in around]"),
        ("any(low != high for low, high in around)", "False"),
        ("for pair in reversed(around)", "for pair in around"),
        ("(total + 1) // 2 if pad_type", "total // 2 if pad_type"),
        ("else total // 2", "else (total + 1) // 2"),
        ("(w - 1) * stride + extent", "w * stride + extent - 1"),
        ("(k - 1) * dilation + 1", "k"),
        ("zip(pad[::2], pad[1::2]", "zip(pad[1::2], pad[::2]"),
    ],
    "conv_transpose": [
        ('if pad_type == "custom":', 'if pad_type != "same":'),
        ("(-low, low + size - n)", "(-low, size - n)"),
        ("n * stride for n, stride", "n + stride for n, stride"),
        ("max(0, n - size), pad_type", 'max(0, n - size), "same_lower"'),
        ("max(0, n - size), pad_type", "n - size, pad_type"),
        ("F.pad(y, inner_first(ends))", "F.pad(y if bias is None else y + bias.reshape(-1, *ones), inner_first(ends))"),
        ("groups)\n    if pad_type", "1)\n    if pad_type"),
    ],
}
