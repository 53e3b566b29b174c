"""Resizing and resampling (coremltools: ops/defs/iOS15/image_resizing.py, iOS16/image_resizing.py, iOS17/image_resizing.py)."""

import math

import torch
from torch import Tensor

from milbuild.package.reader import Value
from milbuild.runtime.registry import moves, operation


@operation
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    if coordinates_mode.lower() != "normalized_minus_one_to_one":
        raise ValueError(f"coordinates_mode is {coordinates_mode!r}; affine knows normalized_minus_one_to_one only")
    rows = _from_minus_one_to_one(output_height, align_corners)[:, None]
    columns = _from_minus_one_to_one(output_width, align_corners)
    a, b = transform_matrix.float().reshape(-1, 2, 3, 1, 1).unbind(1)
    places = torch.stack([m[:, 0] * columns + m[:, 1] * rows + m[:, 2] for m in (a, b)], -1)
    places = places.expand(len(x), -1, -1, -1)
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


@moves
def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operation
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Samples the grid of `sampling_mode` in each box, whose ends take the place of 0 and Xin - 1 in its formulas.

    A box with its end before its start is sampled backwards. A sample outside of the image is pad_value altogether, as
    tensorflow's extrapolation_value. Until iOS16 `roi` (N, 1, 4 or 5, 1, 1) gives the boxes, the image's index first where
    there are five, and otherwise each box is taken from each image.
    """
    if roi is not None:
        boxes = roi.reshape(len(roi), -1)
        images = boxes[:, 0].long() if boxes.shape[1] == 5 else torch.arange(len(x)).repeat(len(boxes))
        boxes = boxes[:, 1:] if boxes.shape[1] == 5 else boxes.repeat_interleave(len(x), 0)
    elif boxes is not None:
        images = torch.arange(len(boxes)) if box_indices is None else box_indices.long()
    else:
        raise ValueError("crop_resize lacks its boxes")
    ends = _box_ends(boxes.double() * spatial_scale, box_coordinate_mode)
    if normalized_coordinates:
        ends = ends * torch.tensor([x.shape[-2] - 1, x.shape[-1] - 1])
    rows = _between(ends[:, :, 0], sampling_mode, target_height)[:, :, None].expand(-1, -1, target_width)
    columns = _between(ends[:, :, 1], sampling_mode, target_width)[:, None, :].expand(-1, target_height, -1)
    inside = (rows >= 0) & (rows <= x.shape[-2] - 1) & (columns >= 0) & (columns <= x.shape[-1] - 1)
    y = _bilinear(x.index_select(0, images), rows, columns, 0.0).masked_fill(~inside[:, None], pad_value)
    return y if roi is None else y.reshape(len(roi), -1, *y.shape[1:])


@operation
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """As torch's grid_sample: of two equally near pixels `nearest` takes the even one."""
    columns, rows = (
        _folded(_pixels(places.float(), size, coordinates_mode.lower(), align_corners), size, padding_mode.lower())
        for places, size in zip(coordinates.unbind(-1), (x.shape[3], x.shape[2]), strict=True)
    )
    if sampling_mode.lower() == "nearest":
        return _at(x, rows.round(), columns.round(), padding_value)
    if sampling_mode.lower() == "bilinear":
        return _bilinear(x, rows, columns, padding_value)
    raise ValueError(f"sampling_mode is {sampling_mode!r}; it must be one of bilinear, nearest")


@operation
def resize(
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Whole numbers are interpolated as such and rounded to the nearest."""
    sizes = dict(zip(range(x.ndim - resized_dims, x.ndim), shape[len(shape) - resized_dims :], strict=True))
    sizes = {axis: size or x.shape[axis] for axis, size in sizes.items()}
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest(x, sizes, sampling_mode)
    if interpolation_mode != "LINEAR":
        raise ValueError(f"interpolation_mode is {interpolation_mode!r}; it must be one of LINEAR, NEAREST_NEIGHBOR")
    if not x.is_floating_point():
        return _linear(x.double(), sizes, sampling_mode).round().to(x.dtype)
    return _linear(x, sizes, sampling_mode)


@operation
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    return _linear(x, {-2: target_size_height, -1: target_size_width}, sampling_mode)


@moves
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """As tensorflow's with half_pixel_centers, of which coremltools makes it."""
    return _nearest(x, {-2: target_size_height, -1: target_size_width}, "UNALIGN_CORNERS")


@operation
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
    *,
    results: list[Value],
) -> Tensor:
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    if align_corners and half_pixel_centers:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width, results), mode)


@moves
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0, *, results: list[Value]
) -> Tensor:
    """As torch's, the scale recomputed from the sizes: the pixel i comes from floor(i * Xin / Xout)."""
    for axis, size in _scaled(x, scale_factor_height, scale_factor_width, results).items():
        x = x.index_select(axis, torch.arange(size) * x.shape[axis] // size)
    return x


def _scaled(x: Tensor, height: float, width: float, results: list[Value]) -> dict[int, int]:
    """The new sizes: those that the program declares, or else floor(size * scale), multiplied in float32 as coremltools."""
    declared = results[0].shape
    if declared is None or len(declared) != x.ndim:  # a rank of unknown extents is no promise
        declared = (None,) * x.ndim
    products = {axis: torch.tensor(x.shape[axis] * scale) for axis, scale in ((-2, height), (-1, width))}
    return {axis: declared[axis] or math.floor(product) for axis, product in products.items()}


def _linear(x: Tensor, sizes: dict[int, int], mode: str) -> Tensor:
    for axis, size in sizes.items():
        points = _grid(mode, torch.tensor([x.shape[axis]]), size)
        low = points.long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        part = (points - low).to(x.dtype).reshape(-1, *[1] * (-axis - 1 if axis < 0 else x.ndim - axis - 1))
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), part)
    return x


def _nearest(x: Tensor, sizes: dict[int, int], mode: str) -> Tensor:
    """The pixel nearest to the grid's points, of two the latter.

    The grid of DEFAULT is here the one of UNALIGN_CORNERS: so say coremltools' tests, and its translation of tensorflow's
    ResizeNearestNeighbor(half_pixel_centers=True) to `resize`.
    """
    for axis, size in sizes.items():
        points = _grid("UNALIGN_CORNERS" if mode == "DEFAULT" else mode, torch.tensor([x.shape[axis]]), size)
        x = x.index_select(axis, (points + 0.5).long().clamp(max=x.shape[axis] - 1))
    return x


def _grid(mode: str, size: Tensor, count: int) -> Tensor:
    """Where `count` samples of [0, size - 1] are taken, in float64 (the documentation of resize_bilinear)."""
    i, size = torch.arange(count).double(), size.double()
    last = size - 1
    if mode == "ALIGN_CORNERS" and count == 1:
        points = last / 2
    elif mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        points = i * last / max(1, count - 1)
    elif mode == "DEFAULT":
        points = i * size / count
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * last.clamp(min=1) / count
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * size / count - 0.5
    else:
        raise ValueError(f"sampling_mode {mode!r} is not known")
    return torch.minimum(points.clamp(min=0), last)


def _between(ends: Tensor, mode: str, count: int) -> Tensor:
    start, end = ends[:, :1], ends[:, 1:]
    return start + torch.sign(end - start) * _grid(mode, (end - start).abs() + 1, count)


def _box_ends(boxes: Tensor, mode: str) -> Tensor:
    """(N, start and end, height and width)."""
    pairs = boxes.reshape(-1, 2, 2)
    if mode.endswith("WIDTH_FIRST"):
        pairs = pairs.flip(-1)
    if mode in ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST"):
        return pairs
    if mode in ("CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"):
        centre, size = pairs.unbind(1)
        return torch.stack([centre - size / 2, centre + size / 2], 1)
    raise ValueError(f"box_coordinate_mode {mode!r} is not known")


def _from_minus_one_to_one(count: int, align_corners: bool) -> Tensor:
    """The coordinates of `count` pixels, as torch's affine_grid has them; a single one lies in the middle."""
    if align_corners and count > 1:
        return torch.linspace(-1, 1, count)
    return (2 * torch.arange(count) + 1) / count - 1


def _pixels(places: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates as numbers of pixels. Not aligned, the extremes are the outer edges of the outer pixels."""
    if mode == "unnormalized":
        return places
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"coordinates_mode {mode!r} is not known")
    return places * (size - 1) if align_corners else places * size - 0.5


def _folded(places: Tensor, size: int, mode: str) -> Tensor:
    """Positions outside of the image, moved to where their value comes from."""
    if mode == "constant":
        return places
    if mode == "reflection" and size > 1:
        places = places.remainder(2 * size - 2)
        places = torch.minimum(places, 2 * size - 2 - places)
    elif mode == "symmetric":
        places = (places + 0.5).remainder(2 * size)
        places = torch.minimum(places, 2 * size - places) - 0.5
    elif mode not in ("border", "reflection"):
        raise ValueError(f"padding_mode {mode!r} is not known")
    return places.clamp(0, size - 1)


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    top, left = rows.floor(), columns.floor()
    down, right = ((place - low)[:, None].to(x.dtype) for place, low in ((rows, top), (columns, left)))
    upper, lower = (
        torch.lerp(_at(x, row, left, outside), _at(x, row, left + 1, outside), right) for row in (top, top + 1)
    )
    return torch.lerp(upper, lower, down)


def _at(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """The pixels (n, :, rows[n, h, w], columns[n, h, w]) as (n, :, h, w)."""
    height, width = x.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows.long().clamp(0, height - 1) * width + columns.long().clamp(0, width - 1)
    y = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return y.reshape(*x.shape[:2], *places.shape[1:]).masked_fill(~inside[:, None], outside)
