"""Images of another size (coremltools: ops/defs/iOS15/image_resizing.py).

Along an axis of known length a linear resize is a product with a matrix of at most two numbers a row, so every grid that MIL
has is right by construction, whatever Core AI's own interpolation does at the edges.
"""

import math
from typing import Any

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.scatter_gather import gather
from milbuild.coreai.rules.values import dtype, is_float, rank, sizes


@rule
def resize_bilinear(
    x: Value, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Value:
    return _linear(x, target_size_height, target_size_width, sampling_mode)


@rule
def resize_nearest_neighbor(x: Value, target_size_height: int, target_size_width: int) -> Value:
    return _nearest(x, target_size_height, target_size_width, "UNALIGN_CORNERS")


@rule
def resize(
    x: Value,
    shape: list[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Value:
    if resized_dims != 2:
        raise Refused(f"resized_dims is {resized_dims}")
    own = sizes(x, [rank(x) - 2, rank(x) - 1], "the grid")
    height, width = (wanted or size for wanted, size in zip(shape[-2:], own, strict=True))
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest(x, height, width, "UNALIGN_CORNERS" if sampling_mode == "DEFAULT" else sampling_mode)
    if interpolation_mode != "LINEAR" or not is_float(x):
        raise Refused(f"interpolation_mode is {interpolation_mode}, of {dtype(x)}")
    return _linear(x, height, width, sampling_mode)


@rule
def upsample_bilinear(
    x: Value,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
    *,
    results: Any,
) -> Value:
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    return _linear(x, *_scaled(x, scale_factor_height, scale_factor_width, results), mode)


@rule
def upsample_nearest_neighbor(
    x: Value, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0, *, results: Any
) -> Value:
    """The pixel i comes from floor(i * Xin / Xout), as in torch."""
    own = sizes(x, [rank(x) - 2, rank(x) - 1], "the grid")
    for axis, size, new in zip(
        (-2, -1), own, _scaled(x, scale_factor_height, scale_factor_width, results), strict=True
    ):
        x = _chosen(x, axis, np.arange(new) * size // new)
    return x


def _scaled(x: Value, height: float, width: float, results: Any) -> tuple[int, int]:
    """Sizes that the program declares, else the products with the factors in float32, as coremltools rounds them."""
    declared = (results[0].shape or (None, None))[-2:]
    own = sizes(x, [rank(x) - 2, rank(x) - 1], "the grid")
    products = [
        math.floor(np.float32(size) * np.float32(scale)) for size, scale in zip(own, (height, width), strict=True)
    ]
    found = [wanted or product for wanted, product in zip(declared, products, strict=True)]
    return found[0], found[1]


def _linear(x: Value, height: int, width: int, mode: str) -> Value:
    rows, columns = sizes(x, [rank(x) - 2, rank(x) - 1], "the grid")
    if height != rows or mode == "OFFSET_CORNERS":
        x = ai.broadcasting_batch_matmul(_matrix(rows, height, mode, dtype(x)), x)
    if width != columns or mode == "OFFSET_CORNERS":
        x = ai.broadcasting_batch_matmul(x, np.ascontiguousarray(_matrix(columns, width, mode, dtype(x)).T))
    return x


def _nearest(x: Value, height: int, width: int, mode: str) -> Value:
    """The pixel nearest to the grid's points, of two the latter."""
    own = sizes(x, [rank(x) - 2, rank(x) - 1], "the grid")
    for axis, size, new in zip((-2, -1), own, (height, width), strict=True):
        places = np.minimum((_grid(mode, size, new) + 0.5).astype(np.int64), size - 1)
        x = _chosen(x, axis, places)
    return x


def _chosen(x: Value, axis: int, places: np.ndarray) -> Value:
    return gather(x, _constant(places.astype(np.int32)), axis)


def _constant(array: np.ndarray) -> Value:
    from coreai.authoring.constant import constant

    return constant(array)


def _matrix(size: int, count: int, mode: str, kind: np.dtype) -> np.ndarray:
    """(count, size): what each new pixel takes of the old ones."""
    points = _grid(mode, size, count)
    low = points.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    part = points - low
    found = np.zeros((count, size))
    np.add.at(found, (np.arange(count), low), 1 - part)
    np.add.at(found, (np.arange(count), high), part)
    return found.astype(kind)


def _grid(mode: str, size: int, count: int) -> np.ndarray:
    """Where `count` samples of [0, size - 1] are taken (the documentation of resize_bilinear)."""
    i, last = np.arange(count, dtype=np.float64), size - 1
    if mode == "ALIGN_CORNERS" and count == 1:
        points = i + last / 2
    elif mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        points = i * last / max(1, count - 1)
    elif mode == "DEFAULT":
        points = i * size / count
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, last) / count
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * size / count - 0.5
    else:
        raise Refused(f"sampling_mode is {mode}")
    return np.clip(points, 0, last)
