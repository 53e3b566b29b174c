"""Pooling, window by window, as the documentation of avg_pool has it."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milbuild.errors import Error
from tests.runtime.harness import Fault, close, covers, run
from tests.runtime.test_conv import every, random, same


def average(inside: np.ndarray, padding: int) -> float:
    return inside.sum() / (inside.size + padding)


FORMULAS = {
    "avg_pool": average,
    "l2_pool": lambda inside, padding: math.sqrt((inside**2).sum()),
    "max_pool": lambda inside, padding: inside.max(),
}


def windows(size: int, kernel: int, stride: int, low: int, high: int, ceil: bool) -> list[tuple[range, int]]:
    """For each window the elements that it covers, and how many of the padding."""
    count = (size + low + high - kernel) // stride + 1
    if ceil:
        count = math.ceil((size + low + high - kernel) / stride) + 1
        if (count - 1) * stride >= size + low and low + high > 0:
            count -= 1
    found = []
    for start in range(-low, count * stride - low, stride):
        inside = range(max(start, 0), min(start + kernel, size))
        found.append((inside, min(start + kernel, size + high) - start - len(inside)))
    return found


def pooled(x: np.ndarray, each: list[list[tuple[range, int]]], formula: Any, exclude: bool) -> np.ndarray:
    y = np.zeros([*x.shape[:2], *map(len, each)])
    for place in itertools.product(*(range(len(axis)) for axis in each)):
        chosen = [axis[p] for axis, p in zip(each, place, strict=True)]
        inside = math.prod(len(covered) for covered, _ in chosen)
        padding = math.prod(len(covered) + more for covered, more in chosen) - inside
        for n, c in itertools.product(*map(range, x.shape[:2])):
            values = x[n, c][np.ix_(*(list(covered) for covered, _ in chosen))].astype(np.float64)
            y[(n, c, *place)] = formula(values, 0 if exclude else padding)
    return y.astype(np.float32)


@covers("avg_pool", "l2_pool", "max_pool")
@given(data=st.data())
def test_pools(operation: str, data: Any) -> None:
    rank, opset = data.draw(st.integers(1, 2 if operation == "l2_pool" else 3)), data.draw(st.sampled_from([5, 6, 8]))
    ceil = rank < 3 and data.draw(st.booleans())
    pad_type = data.draw(st.sampled_from(["valid", "custom", *([] if ceil else ["same", "same_lower"][: opset - 4])]))
    kernel = every(data, rank, 1, 4 if rank < 3 else 2)
    optional: dict[str, Any] = {"pad_type": pad_type, "kernel_sizes": kernel}
    if data.draw(st.booleans()):
        optional["strides"] = every(data, rank, 1, 3)
    if pad_type == "custom" or data.draw(st.booleans()):
        # A window of nothing but padding has no average, and no greatest element.
        pad = [min(n, kernel[i // 2] - 1) for i, n in enumerate(every(data, 2 * rank, 0, 3))]
        optional["pad"] = [pad[i - i % 2] for i in range(2 * rank)] if ceil else pad
    if ceil or data.draw(st.booleans()):
        optional["ceil_mode"] = ceil
    exclude = operation == "avg_pool" and data.draw(st.booleans())
    if operation == "avg_pool" and (exclude or data.draw(st.booleans())):
        optional["exclude_padding_from_average"] = exclude
    strides = optional.get("strides", [1] * rank)
    if ceil:
        strides = optional["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    sizes = [k + more for k, more in zip(kernel, every(data, rank, 0, 3 if rank < 3 else 1), strict=True)]
    around = [(0, 0)] * rank
    if pad_type == "custom":
        around = [tuple(optional["pad"][2 * i : 2 * i + 2]) for i in range(rank)]
    elif pad_type != "valid":
        around = [same(n, k, s, pad_type) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    each = [
        windows(n, k, s, low, high, ceil) for n, k, s, (low, high) in zip(sizes, kernel, strides, around, strict=True)
    ]
    x = random(data, *every(data, 2, 1, 2), *sizes) - data.draw(st.sampled_from([0, 5]))
    expected = pooled(x, each, FORMULAS[operation], exclude)
    close(run(operation, {"x": x}, opset=opset, **optional), expected)


@covers("avg_pool", "l2_pool", "max_pool")
def test_partial_windows(operation: str) -> None:
    """What ceil_mode adds is no padding: it never counts in an average. What is all negative has a negative maximum."""
    x = -np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6)
    result = run(operation, {"x": x}, kernel_sizes=[3], strides=[2], pad_type="custom", pad=[1, 1], ceil_mode=True)
    wanted = {
        "avg_pool": [-3 / 3, -9 / 3, -15 / 3, -6 / 2],
        "l2_pool": [np.sqrt(5), np.sqrt(29), np.sqrt(77), 6],
        "max_pool": [-1, -2, -4, -6],
    }
    close(result, np.float32([[wanted[operation]]]))


@covers("avg_pool", "l2_pool", "max_pool")
def test_last_window(operation: str) -> None:
    """A window that would begin in the padding after x is left out, though ceil_mode would have it."""
    x = np.float32([[[3, 1, 2, 6, 4]]])
    result = run(operation, {"x": x}, kernel_sizes=[2], strides=[2], pad_type="custom", pad=[1, 1], ceil_mode=True)
    wanted = {"avg_pool": [1.5, 1.5, 5], "l2_pool": [3, np.sqrt(5), np.sqrt(52)], "max_pool": [3, 2, 6]}
    close(result, np.float32([[wanted[operation]]]))


@covers("avg_pool", "l2_pool", "max_pool")
def test_upper_case(operation: str) -> None:
    x = np.float32([[[3, 4, 5]]])
    result = run(operation, {"x": x}, kernel_sizes=[2], strides=[1], pad_type="VALID", pad=[1, 1])
    close(result, np.float32([[{"avg_pool": [3.5, 4.5], "l2_pool": [5, np.sqrt(41)], "max_pool": [4, 5]}[operation]]]))


def test_window_behind_the_end() -> None:
    """coremltools declares three windows at 0, 3 and 6 of five elements; torch leaves the last one out."""
    x = np.ones((1, 1, 5), np.float32)
    with pytest.raises(Error, match="a window past the end of axis 2"):
        run("max_pool", {"x": x}, kernel_sizes=[1], strides=[3], pad_type="valid", ceil_mode=True)


BEYOND = [
    ("2 * last >= size + padded", "False"),
    ("-(-(padded - kernel) // stride)", "((padded - kernel) // stride)"),
    ("[(0, more) for more in beyond]", "[(more, 0) for more in beyond]"),
]

FAULTS: dict[str, list[Fault]] = {
    "avg_pool": [
        *BEYOND,
        ("0.0 if exclude_padding_from_average else 1.0", "1.0"),
        (
            "F.pad(y, beyond) for y in (F.pad(x, around), counted)",
            "F.pad(y, beyond) for y in (F.pad(x, around), F.pad(x[:1, :1] * 0 + 1, around, value=1.0))",
        ),
        (" / mean(share, kernel_sizes, strides)", ""),
        ("mean(total, kernel_sizes, strides)", "mean(total, kernel_sizes)"),
    ],
    "l2_pool": [
        *BEYOND,
        (".sqrt()", ""),
        ("x.square()", "x.abs()"),
        (" * math.prod(kernel_sizes)", ""),
        (", kernel_sizes, strides)", ", kernel_sizes)"),
    ],
    "max_pool": [
        *BEYOND,
        ("around, value=-math.inf", "around, value=0"),
        ("beyond, value=-math.inf", "beyond, value=0"),
        ("(x, kernel_sizes, strides)", "(x, kernel_sizes)"),
    ],
}
