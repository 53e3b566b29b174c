"""Resizing and resampling: the documentation's formulas in exact fractions, images padded for real, and torch's own."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.errors import Error
from milbuild.runtime import image_resizing
from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
SIZES = st.integers(1, 6)


def points(mode: str, xin: Fraction | int, xout: int) -> list[Fraction]:
    """The grid points of resize_bilinear's documentation."""
    xin, gaps = Fraction(xin), max(1, xout - 1)
    if mode == "ALIGN_CORNERS" and xout == 1:
        return [(xin - 1) / 2]
    if mode == "OFFSET_CORNERS":
        delta = max(Fraction(1), xin - 1) / xout
        found = [delta / 2 + i * ((xout - 1) * delta) / gaps for i in range(xout)]
    elif mode == "UNALIGN_CORNERS":
        spacing = xin / xout
        found = [i * spacing + spacing / 2 - Fraction(1, 2) for i in range(xout)]
    else:
        spacing = (xin - xin / xout if mode == "DEFAULT" else xin - 1) / gaps
        found = [i * spacing for i in range(xout)]
    return [min(xin - 1, max(Fraction(0), point)) for point in found]


def weights(places: list[Fraction], size: int) -> np.ndarray:
    """What each pixel weighs in a linear interpolation at each place."""
    return np.array([[max(0.0, 1 - abs(float(place) - pixel)) for pixel in range(size)] for place in places])


def linear(x: np.ndarray, sizes: list[int], mode: str) -> np.ndarray:
    y = x.astype(np.float64)
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        y = np.moveaxis(
            np.moveaxis(y, axis, -1) @ weights(points(mode, x.shape[axis], size), x.shape[axis]).T, -1, axis
        )
    return y


def nearest(x: np.ndarray, sizes: list[int], mode: str) -> np.ndarray:
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        grid = points("UNALIGN_CORNERS" if mode == "DEFAULT" else mode, x.shape[axis], size)
        x = x.take([math.floor(place + Fraction(1, 2)) for place in grid], axis)
    return x


@covers("resize_bilinear")
@given(
    x=arrays(ranks=(3, 5)), height=st.none() | SIZES, width=st.none() | SIZES, mode=st.none() | st.sampled_from(MODES)
)
def test_resize_bilinear(x: np.ndarray, height: int | None, width: int | None, mode: str | None) -> None:
    given_ones = {"target_size_height": height, "target_size_width": width, "sampling_mode": mode}
    constants = {name: value for name, value in given_ones.items() if value is not None}
    expected = linear(x, [height or 1, width or 1], mode or "DEFAULT")
    close(run("resize_bilinear", {"x": x}, **constants), np.float32(expected))


@covers("resize_bilinear", "resize")
def test_every_grid(operation: str) -> None:
    cases = [(mode, xin, xout) for mode in MODES for xin in range(1, 5) for xout in range(1, 7)]

    def build(**xs: Any) -> list[Any]:
        if operation == "resize":
            made = []
            for mode, xin, xout in cases:
                for how in ("LINEAR", "NEAREST_NEIGHBOR"):
                    kind = {"interpolation_mode": how, "sampling_mode": mode}
                    made.append(mb.resize(x=xs[f"x{xin}"], shape=[xout], resized_dims=np.uint32(1), **kind))
            return made
        return [
            mb.resize_bilinear(x=xs[f"x{xin}"], target_size_width=xout, sampling_mode=mode) for mode, xin, xout in cases
        ]

    xs = {f"x{n}": np.float32([[[3, -1, 4, 1][:n]]]) for n in range(1, 5)}
    results = iter(run_graph(build, xs))
    for mode, xin, xout in cases:
        close(next(results), np.float32(linear(xs[f"x{xin}"], [xout], mode)))
        if operation == "resize":
            close(next(results), nearest(xs[f"x{xin}"], [xout], mode))


@covers("resize_bilinear")
def test_documented_grids() -> None:
    """The examples of its documentation, of two pixels."""
    x = np.float32([[[0, 1]]])
    for mode, size, expected in (
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 6, [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("STRICT_ALIGN_CORNERS", 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", 6, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    ):
        close(run("resize_bilinear", {"x": x}, target_size_width=size, sampling_mode=mode), np.float32([[expected]]))


@covers("resize_nearest_neighbor")
@given(x=arrays(ranks=(3, 5)), height=SIZES, width=SIZES)
def test_resize_nearest_neighbor(x: np.ndarray, height: int, width: int) -> None:
    planes = torch.from_numpy(x).reshape(1, -1, *x.shape[-2:])
    expected = F.interpolate(planes, (height, width), mode="nearest-exact").reshape(*x.shape[:-2], height, width)
    close(run("resize_nearest_neighbor", {"x": x}, target_size_height=height, target_size_width=width), expected)


@covers("resize")
@given(data=st.data())
def test_resize(data: Any) -> None:
    """Over the last axes, whichever of the shape's sizes are theirs; a size of zero keeps the axis."""
    x = data.draw(arrays(ranks=(1, 4)) | arrays(dtype=np.int32, ranks=(1, 4)))
    shape = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=x.ndim))
    resized = data.draw(st.integers(1, len(shape)))
    how, mode = (
        data.draw(st.sampled_from([None, "LINEAR", "NEAREST_NEIGHBOR"])),
        data.draw(st.none() | st.sampled_from(MODES)),
    )
    sizes = [size or x.shape[i - resized] for i, size in enumerate(shape[len(shape) - resized :])]
    constants = {"resized_dims": np.uint32(resized), "interpolation_mode": how, "sampling_mode": mode}
    constants = {name: value for name, value in constants.items() if value is not None}
    inputs = {"x": x}
    (inputs if data.draw(st.booleans()) else constants)["shape"] = np.int32(shape)
    result = run("resize", inputs, opset=7, **constants)
    expected = (nearest if how == "NEAREST_NEIGHBOR" else linear)(x, sizes, mode or "DEFAULT")
    if x.dtype == np.int32:
        assert result.dtype == np.int32
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 0.5 + 1e-9
    else:
        close(result, np.float32(expected))


@covers("resize")
def test_nearest_of_resize() -> None:
    """coremltools' own test: the middle of three lies on the border of two and takes the latter."""
    x = np.float32([[-6, 9]])
    result = run(
        "resize", {"x": x}, opset=7, shape=[3], resized_dims=np.uint32(1), interpolation_mode="NEAREST_NEIGHBOR"
    )
    close(result, np.float32([[-6, 9, 9]]))


@covers("upsample_nearest_neighbor", "upsample_bilinear")
@given(data=st.data())
def test_upsampling(operation: str, data: Any) -> None:
    """The scale is what the sizes come to: floor(size * scale) / size. Sizes are those that coremltools declares."""
    x, opset = data.draw(arrays(ranks=(3, 5))), data.draw(st.sampled_from([5, 6, 8]))
    whole = data.draw(st.booleans())
    # At least 1 of 4: no empty result. 2.7 of 10 is below 27 in float64 and not in float32.
    scales = st.integers(1, 3) if whole else st.sampled_from([np.float32(f) for f in (1.0, 1.12, 1.5, 2.6, 2.7)])
    optional = {}
    for name in ("scale_factor_height", "scale_factor_width"):
        if data.draw(st.booleans()):
            optional[name] = data.draw(scales)
    both = {"scale_factor_height", "scale_factor_width"} <= optional.keys()
    if not whole and not both:
        optional = {}
    height, width = (optional.get(f"scale_factor_{name}", 1) for name in ("height", "width"))
    sizes = [int(np.floor(np.float32(height) * x.shape[-2])), int(np.floor(np.float32(width) * x.shape[-1]))]
    if operation == "upsample_nearest_neighbor":
        expected = x
        for axis, size in zip((-2, -1), sizes, strict=True):
            expected = expected.take([math.floor(Fraction(i * x.shape[axis], size)) for i in range(size)], axis)
    else:
        align = data.draw(st.sampled_from([None, True, False]))
        half = data.draw(st.sampled_from([None, False] if align is not False else [None, False, True]))
        if align is not None:
            optional["align_corners"] = align
        if half is not None and opset > 5:
            optional["half_pixel_centers"] = half
        mode = "DEFAULT" if optional.get("half_pixel_centers", True) is False else "UNALIGN_CORNERS"
        expected = linear(x, sizes, mode if align is False else "STRICT_ALIGN_CORNERS")
    close(run(operation, {"x": x}, opset=opset, **optional), np.float32(expected))


@covers("upsample_bilinear")
@given(x=arrays((2, 3, 4, 5)), scale=st.sampled_from([1, 2, 3]), align=st.booleans())
def test_upsample_as_torch(x: np.ndarray, scale: int, align: bool) -> None:
    sizes = {"scale_factor_height": scale, "scale_factor_width": scale}
    expected = F.interpolate(torch.from_numpy(x), scale_factor=scale, mode="bilinear", align_corners=align)
    close(run("upsample_bilinear", {"x": x}, align_corners=align, **sizes), expected)


@covers("upsample_bilinear", "upsample_nearest_neighbor")
def test_sizes_in_float32(operation: str) -> None:
    """0.7 of 10 is 7 in float32, where coremltools multiplies, and less than 7 in float64. Declared or not."""
    x, scale = torch.arange(10.0).reshape(1, 1, 10), np.float32(0.7)
    assert math.floor(float(scale) * 10) == 6
    result = run(operation, {"x": x.numpy()}, scale_factor_height=np.float32(1), scale_factor_width=scale)
    assert result.shape == (1, 1, 7)

    class Unknown:
        shape = (1, None, None)

    scales = {"scale_factor_height": 2.0, "scale_factor_width": float(scale)}
    again = OPERATIONS[operation].function(x=x, **scales, results=[Unknown()])
    close(again.numpy(), result.repeat(2, 1))


@covers("upsample_bilinear")
def test_both_corners_and_centers() -> None:
    with pytest.raises(Error, match="exclude each other"):
        run("upsample_bilinear", {"x": np.ones((1, 2, 2), np.float32)}, align_corners=True, half_pixel_centers=True)


@covers("crop")
@given(data=st.data())
def test_crop(data: Any) -> None:
    x = data.draw(arrays(ranks=(3, 5)))
    top, left = (data.draw(st.integers(0, n - 1)) for n in x.shape[-2:])
    bottom, right = (data.draw(st.integers(0, n - 1 - cut)) for n, cut in zip(x.shape[-2:], (top, left), strict=True))
    result = run("crop", {"x": x}, crop_height=[top, bottom], crop_width=[left, right])
    close(result, x[..., top:, left:][..., : x.shape[-2] - top - bottom, : x.shape[-1] - left - right])


def cropped(image: np.ndarray, box: list[float], sizes: tuple[int, int], how: dict[str, Any]) -> np.ndarray:
    """One box of an image (C, H, W), sample by sample, exactly."""
    first, second, third, fourth = (Fraction(float(n)) * Fraction(how.get("spatial_scale", 1.0)) for n in box)
    coordinates = how.get("box_coordinate_mode", "CORNERS_HEIGHT_FIRST")
    pairs = [(first, third), (second, fourth)]
    if coordinates.startswith("CENTER"):
        pairs = [(centre - size / 2, centre + size / 2) for centre, size in pairs]
    if coordinates.endswith("WIDTH_FIRST"):
        pairs.reverse()
    axes = []
    for (start, end), length, count in zip(pairs, image.shape[1:], sizes, strict=True):
        if how.get("normalized_coordinates"):
            start, end = start * (length - 1), end * (length - 1)
        grid = points(how.get("sampling_mode", "DEFAULT"), abs(end - start) + 1, count)
        axes.append([start + place if end >= start else start - place for place in grid])
    rows, columns = axes
    y = weights(rows, image.shape[1]) @ image.astype(np.float64) @ weights(columns, image.shape[2]).T
    for axis, (places, length) in enumerate(zip(axes, image.shape[1:], strict=True)):
        outside = [i for i, place in enumerate(places) if not 0 <= place <= length - 1]
        y[(slice(None), outside) if axis == 0 else (slice(None), slice(None), outside)] = how.get("pad_value", 0.0)
    return y


@covers("crop_resize")
@given(data=st.data())
def test_crop_resize(data: Any) -> None:
    """Each sample outside of the image is pad_value; an end before its start turns the crop round."""
    opset = data.draw(st.sampled_from([5, 6, 7, 8]))
    x = data.draw(arrays((2, 2, 4, 5)))
    how: dict[str, Any] = {}
    for name, values in {
        "target_height": [2, 3],
        "target_width": [2, 3, 4],
        "spatial_scale": [0.5, 2.0],
        "box_coordinate_mode": [f"{a}_{b}_FIRST" for a in ("CORNERS", "CENTER_SIZE") for b in ("HEIGHT", "WIDTH")],
        "sampling_mode": MODES,
        "pad_value": [-7.5, 30.0],
        "normalized_coordinates": [True],
    }.items():
        if data.draw(st.booleans()) and not (name == "pad_value" and opset == 5):
            how[name] = data.draw(st.sampled_from(values))
    # Eighths: no rounding decides whether a sample is inside.
    unit = 8 if not how.get("normalized_coordinates") else 32
    count = data.draw(st.integers(1, 2))
    boxes = np.float32(data.draw(arrays((count, 4), dtype=np.int32, low=-2, high=30)) / unit)
    indices = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=count, max_size=count))
    sizes = how.get("target_height", 1), how.get("target_width", 1)
    inputs = {"x": x}
    if opset >= 7:
        inputs["boxes"] = boxes
        if indices is not None:
            inputs["box_indices"] = np.int32(indices)
        chosen = range(count) if indices is None else indices
        expected = np.stack([cropped(x[i], box, sizes, how) for i, box in zip(chosen, boxes, strict=True)])
    elif indices is None:
        inputs["roi"] = boxes.reshape(count, 1, 4, 1, 1)
        expected = np.stack([np.stack([cropped(image, box, sizes, how) for image in x]) for box in boxes])
    else:
        inputs["x"] = x = x[
            :1
        ]  # coremltools declares as many crops a box as there are images, wrongly for more than one
        inputs["roi"] = np.concatenate([np.zeros((count, 1), np.float32), boxes], 1).reshape(count, 1, 5, 1, 1)
        expected = np.stack([cropped(x[0], box, sizes, how)[None] for box in boxes])
    close(run("crop_resize", inputs, opset=opset, **how), np.float32(expected))


@covers("crop_resize")
def test_image_of_a_roi() -> None:
    """The first of five numbers is the image. (The shape that coremltools declares fits one image only.)"""
    x, roi = torch.arange(12.0).reshape(3, 1, 2, 2), torch.tensor([2.0, 0, 1, 1, 1]).reshape(1, 1, 5, 1, 1)
    result = OPERATIONS["crop_resize"].function(x=x, roi=roi, target_height=2, sampling_mode="ALIGN_CORNERS")
    close(result.numpy(), np.float32([9, 11]).reshape(1, 1, 1, 2, 1))


def padded(x: np.ndarray, mode: str, value: float, by: int) -> np.ndarray:
    names = {"constant": "constant", "border": "edge", "reflection": "reflect", "symmetric": "symmetric"}
    extra = {"constant_values": value} if mode == "constant" else {}
    return np.pad(x, [(0, 0), (0, 0), (by, by), (by, by)], names[mode], **extra)


def pixels(coordinates: np.ndarray, size: int, mode: str, align: bool) -> np.ndarray:
    """In-image: [0, size - 1], [-1, 1] or [0, 1], from centre to centre or from edge to edge of the outer pixels."""
    if mode == "unnormalized":
        return coordinates.astype(np.float64)
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    part = coordinates.astype(np.float64) / 2 + 0.5 if mode == "normalized_minus_one_to_one" else coordinates
    return low + part * (high - low)


@covers("resample")
@given(data=st.data())
def test_resample(data: Any) -> None:
    x = data.draw(arrays((2, 2, *(data.draw(st.integers(1, 4)) for _ in range(2)))))
    opset = data.draw(st.sampled_from([5, 6, 7]))
    sampling, padding, mode = (
        data.draw(st.sampled_from(names))
        for names in (
            ["bilinear", "nearest"],
            ["constant", "border", "reflection", "symmetric"],
            ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"],
        )
    )
    align, value = data.draw(st.booleans()), data.draw(st.sampled_from([-7.5, 30.0]))
    coordinates: np.ndarray = data.draw(arrays((2, 2, 3, 2), dtype=np.int32, low=-48, high=64))
    if data.draw(st.booleans()):
        coordinates = np.float32(coordinates / (16 if mode == "unnormalized" else 32) + 1 / 64)
    else:
        coordinates = coordinates // 16
    columns, rows = (pixels(coordinates[..., i], n, mode, align) for i, n in ((0, x.shape[3]), (1, x.shape[2])))
    by, expected = 40, np.zeros((2, 2, 2, 3))
    large = padded(x, padding, value, by).astype(np.float64)
    for b, i, j in np.ndindex(2, 2, 3):
        row, column = rows[b, i, j] + by, columns[b, i, j] + by
        if sampling == "nearest":
            expected[b, :, i, j] = large[b, :, math.floor(row + 0.5), math.floor(column + 0.5)]
        else:
            h, w = (weights([place], n)[0] for place, n in ((row, large.shape[2]), (column, large.shape[3])))
            expected[b, :, i, j] = h @ large[b] @ w
    constants = {"sampling_mode": sampling, "padding_mode": padding, "padding_value": value}
    constants |= {"coordinates_mode": mode, "align_corners": align}
    result = run("resample", {"x": x, "coordinates": coordinates}, opset=opset, **constants)
    if sampling == "nearest":  # which of two equally near pixels is meant is not documented
        tie = (np.abs(rows % 1 - 0.5) < 1e-4) | (np.abs(columns % 1 - 0.5) < 1e-4)
        expected = np.where(tie[:, None], result, expected)
    close(result, np.float32(expected))


@covers("resample")
def test_resample_by_hand() -> None:
    """One row of two pixels, at 1.25 pixels before the first, between them, and at 1.25 after the last one."""
    x, coordinates = np.float32([[[[10, 20]]]]), np.float32([[[[-1.25, 0], [0.25, 0], [2.25, 0]]]])
    for sampling, padding, expected in (
        ("bilinear", "constant", [6, 12.5, 6]),
        ("bilinear", "border", [10, 12.5, 20]),
        ("bilinear", "reflection", [17.5, 12.5, 12.5]),
        ("bilinear", "symmetric", [12.5, 12.5, 17.5]),
        ("nearest", "constant", [6, 10, 6]),
        ("nearest", "border", [10, 10, 20]),
        ("nearest", "reflection", [20, 10, 10]),
        ("nearest", "symmetric", [10, 10, 20]),
    ):
        constants = {"sampling_mode": sampling, "padding_mode": padding, "padding_value": 6.0, "align_corners": True}
        inputs = {"x": x, "coordinates": coordinates}
        close(run("resample", inputs, coordinates_mode="unnormalized", **constants), np.float32([[[expected]]]))


@covers("resample")
@given(data=st.data())
def test_resample_as_torch(data: Any) -> None:
    """Of which coremltools makes it; also where two pixels are equally near."""
    x = data.draw(arrays((1, 1, 3, 4)))
    coordinates = np.float32(data.draw(arrays((1, 2, 2, 2), dtype=np.int32, low=-20, high=20)) / 8)
    sampling, align = data.draw(st.sampled_from(["bilinear", "nearest"])), data.draw(st.booleans())
    theirs, ours = data.draw(st.sampled_from([("zeros", "constant"), ("border", "border"), ("reflection", "")]))
    constants = {"sampling_mode": sampling, "padding_value": 0.0, "align_corners": align}
    constants |= {"padding_mode": ours or ("reflection" if align else "symmetric")}
    result = run(
        "resample",
        {"x": x, "coordinates": coordinates},
        coordinates_mode="normalized_minus_one_to_one",
        **constants,
    )
    grid = torch.from_numpy(coordinates)
    close(result, F.grid_sample(torch.from_numpy(x), grid, sampling, theirs, align))


AFFINE = {"padding_mode": "constant", "coordinates_mode": "normalized_minus_one_to_one", "padding_value": 0.0}


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")  # what a single pixel means
@covers("affine")
@given(data=st.data())
def test_affine(data: Any) -> None:
    """As torch, of whose affine_grid and grid_sample coremltools makes it. One matrix for all images, or one for each."""
    x, align = data.draw(arrays((2, 2, 3, 4))), data.draw(st.booleans())
    matrices = np.float32(data.draw(arrays((data.draw(st.sampled_from([1, 2])), 6), low=-1.5, high=1.5)))
    height, width = data.draw(SIZES), data.draw(SIZES)
    theta = torch.from_numpy(matrices).reshape(-1, 2, 3).expand(2, 2, 3)
    grid = F.affine_grid(theta, [2, 2, height, width], align)
    expected = F.grid_sample(torch.from_numpy(x), grid, "bilinear", "zeros", align)
    sizes = {"output_height": height, "output_width": width, "sampling_mode": "bilinear"}
    inputs = {"x": x, "transform_matrix": matrices}
    close(run("affine", inputs, align_corners=align, **AFFINE, **sizes), expected, 1e-4)


@covers("affine")
def test_affine_by_hand() -> None:
    """coremltools' own test, which says what x and y are."""
    inputs = {"x": np.float32([[[[11, 22], [33, 44]]]]), "transform_matrix": np.float32([[-1, -2, -3.7, -1, 3.5, 1.2]])}
    sizes = {"output_height": 2, "output_width": 5, "sampling_mode": "bilinear"}
    expected = [[10.7525, 5.94, 2.5025, 0.44, 0], [0] * 5]
    close(run("affine", inputs, align_corners=True, **AFFINE, **sizes), np.float32([[expected]]), 1e-4)


def test_what_is_refused() -> None:
    x, places = np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 2), np.float32)
    known = {"sampling_mode": "nearest", "padding_mode": "constant", "padding_value": 0.0, "align_corners": True}
    known |= {"coordinates_mode": "unnormalized"}
    for name in ("sampling_mode", "padding_mode", "coordinates_mode"):
        with pytest.raises(Error, match="'other'"):
            run("resample", {"x": x, "coordinates": places}, **known | {name: "other"})
    tensor = torch.from_numpy(x)
    with pytest.raises(ValueError, match="affine knows"):
        image_resizing.affine(tensor, torch.ones(1, 6), 1, 1, "bilinear", "constant", 0.0, "unnormalized", True)
    with pytest.raises(ValueError, match="interpolation_mode is 'other'"):
        image_resizing.resize(tensor, [2], 1, "other")
    with pytest.raises(ValueError, match="'other' is not known"):
        image_resizing.resize_bilinear(tensor, 1, 1, "other")
    with pytest.raises(ValueError, match="'other' is not known"):
        image_resizing.crop_resize(tensor, boxes=torch.ones(1, 4), box_coordinate_mode="other")
    with pytest.raises(ValueError, match="lacks its boxes"):
        image_resizing.crop_resize(tensor)


GRID: list[Fault] = [
    ("points = last / 2", "points = last * 0"),
    ("points = i * last / max(1, count - 1)", "points = i * last / count"),
    ("points = i * size / count", "points = i * last / count"),
    ("size / count - 0.5", "size / count"),
]

FAULTS: dict[str, list[Fault]] = {
    "affine": [
        ("a, b = ", "b, a = "),
        ("m[:, 0] * columns + m[:, 1] * rows", "m[:, 1] * columns + m[:, 0] * rows"),
        ("2 * torch.arange(count) + 1", "2 * torch.arange(count)"),
        ("if align_corners and count > 1", "if align_corners"),
        (" + m[:, 2]", ""),
        ("places.expand(len(x), -1, -1, -1)", "places[:1].expand(len(x), -1, -1, -1)"),
    ],
    "crop": [
        ("x.shape[-2] - bottom", "x.shape[-2] - top"),
        ("x.shape[-1] - right", "x.shape[-1]"),
        ("left : x", "right : x"),
    ],
    "crop_resize": [
        *GRID,
        ("last.clamp(min=1)", "last"),
        ("torch.minimum(points.clamp(min=0), last)", "points.clamp(min=0)"),
        ("torch.sign(end - start) *", ""),
        ("(end - start).abs() + 1", "(end - start) + 1"),
        ("~inside[:, None], pad_value", "~inside[:, None], 0.0"),
        ("x.shape[-2] - 1, x.shape[-1] - 1", "x.shape[-2], x.shape[-1]"),
        ("pairs.flip(-1)", "pairs"),
        ("centre - size / 2, centre + size / 2", "centre, centre + size"),
        ("boxes[:, 0].long() if", "boxes[:, 0].long() * 0 if"),
        ("torch.arange(len(x)).repeat(len(boxes))", "torch.arange(len(x)).repeat_interleave(len(boxes))"),
        ("boxes.double() * spatial_scale", "boxes.double() + spatial_scale - 1"),
        ("rows <= x.shape[-2] - 1", "rows < x.shape[-2]"),
    ],
    "resample": [
        ("(x.shape[3], x.shape[2])", "(x.shape[2], x.shape[3])"),
        ("columns, rows = (", "rows, columns = ("),
        ("rows.round(), columns.round()", "rows.floor(), columns.floor()"),
        ("rows.round(), columns.round()", "(rows + 0.5).floor(), (columns + 0.5).floor()"),
        ("_bilinear(x, rows, columns, padding_value)", "_bilinear(x, rows, columns, 0.0)"),
        ("places * size - 0.5", "places * size"),
        ("places = (places + 1) / 2", "places = places + 1"),
        ('mode == "reflection" and size > 1', 'mode == "reflection" and size > 2'),
        ("(places + 0.5).remainder(2 * size)", "(places + 0.5).fmod(2 * size)"),
        ("places = places.remainder(2 * size - 2)", "places = places.abs()"),
        ("return places.clamp(0, size - 1)", "return places"),
        ("columns < width", "columns <= width"),
    ],
    "resize": [
        *GRID,
        ("size or x.shape[axis]", "size or 1"),
        ("shape[len(shape) - resized_dims :]", "shape[:resized_dims]"),
        ("range(x.ndim - resized_dims, x.ndim)", "range(resized_dims)"),
        ('"UNALIGN_CORNERS" if mode == "DEFAULT" else mode', "mode"),
        ("(points + 0.5).long()", "points.long()"),
        (".round().to(x.dtype)", ".to(x.dtype)"),
    ],
    "resize_bilinear": [
        *GRID,
        ("-2: target_size_height, -1: target_size_width", "-1: target_size_height, -2: target_size_width"),
        ("(low + 1).clamp(max=x.shape[axis] - 1)", "low"),
    ],
    "resize_nearest_neighbor": [
        ("-2: target_size_height, -1: target_size_width", "-1: target_size_height, -2: target_size_width"),
        ('"UNALIGN_CORNERS")', '"STRICT_ALIGN_CORNERS")'),
        ("(points + 0.5).long()", "points.long()"),
    ],
    "upsample_bilinear": [
        ('"UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"', '"UNALIGN_CORNERS"'),
        ("half_pixel_centers = not align_corners", "half_pixel_centers = False"),
        ('"STRICT_ALIGN_CORNERS" if align_corners else', ""),
        ("(-2, height), (-1, width)", "(-1, height), (-2, width)"),
        ("torch.tensor(x.shape[axis] * scale)", "x.shape[axis] * scale"),
    ],
    "upsample_nearest_neighbor": [
        ("* x.shape[axis] // size", "* x.shape[axis] // size // 1 * 0"),
        ("torch.arange(size) * x.shape[axis] // size", "((torch.arange(size) + 0.5) * x.shape[axis] / size).long()"),
        ("(-2, height), (-1, width)", "(-1, height), (-2, width)"),
        ("torch.tensor(x.shape[axis] * scale)", "x.shape[axis] * scale"),
    ],
}
