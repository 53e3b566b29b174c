"""Inputs and outputs as Core ML takes and gives them, checked against the package's description."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from milbuild.errors import Error
from milbuild.package.reader import DAMAGED, Function, Value, color_name, type_name

# PIL's modes for Core ML's color spaces, in and out; the order of a tensor's channels.
COLORS = {
    "RGB": ("RGB", "RGBA", (0, 1, 2)),
    "BGR": ("RGB", "RGBA", (2, 1, 0)),
    "GRAYSCALE": ("L", "L", ()),
    "GRAYSCALE_FLOAT16": ("F", "F", ()),
}


def check(description: Any, function: Function, where: str) -> None:
    """Raises `Error` for a description that does not fit the function, or names what an ML Program cannot take."""
    tensors = {value.name for value in function.inputs if not value.is_state}
    described = {feature.name: feature for feature in description.input}
    if tensors != described.keys():
        raise Error(
            f"{where}: function {function.name} takes {', '.join(sorted(tensors)) or 'nothing'}; "
            f"its description says {', '.join(sorted(described)) or 'nothing'}",
            DAMAGED,
        )
    for name, feature in described.items():
        kind = feature.type.WhichOneof("Type")
        if kind not in ("multiArrayType", "imageType"):
            raise Error(f"{where}: the input {name} is a {kind}; an ML Program takes multi-arrays and images")
    for feature in [*description.input, *description.output]:
        array, image = feature.type.multiArrayType, feature.type.imageType
        for number, enum in ((array.dataType, array.ArrayDataType), (image.colorSpace, type(image).ColorSpace)):
            if number not in enum.values():
                raise Error(f"{where}: {feature.name} has the unknown type {number}", DAMAGED)
    for feature in description.output:
        kind = feature.type.WhichOneof("Type")
        if kind not in ("multiArrayType", "imageType", "stringType", "int64Type", "dictionaryType"):
            raise Error(f"{where}: the output {feature.name} is a {kind}; an ML Program does not give that")
        if feature.name not in function.outputs:
            raise Error(f"{where}: function {function.name} does not give its output {feature.name}", DAMAGED)


def inputs(
    features: Iterable[Any], values: Iterable[Value], data: dict[str, Any], where: str, rounds: bool
) -> dict[str, torch.Tensor]:
    """The tensors of a call. Raises `Error` for a missing or unknown name, a wrong type, rank or shape."""
    described = {feature.name: feature for feature in features}
    declared = {value.name: value for value in values}
    if not isinstance(data, dict):
        raise Error(f"predict takes a dictionary of inputs, got {type(data).__name__}")
    if unknown := sorted(str(name) for name in data if name not in described):
        raise Error(f"{where} has no input {', '.join(unknown)}; it has {', '.join(described)}")
    absent = [name for name, feature in described.items() if name not in data and _default(feature) is None]
    if absent:
        raise Error(f"{where} needs the input {', '.join(sorted(absent))}")
    tensors = {}
    for name, feature in described.items():
        if name not in data:
            shape = tuple(feature.type.multiArrayType.shape)
            tensor = _typed(name, np.full(shape, _default(feature)), declared[name].dtype, rounds)
        elif feature.type.WhichOneof("Type") == "imageType":
            tensor = _image(name, feature.type.imageType, data[name], rounds)
        else:
            tensor = _array(name, feature.type.multiArrayType, declared[name].dtype, data[name], rounds)
        tensors[name] = _fitting(name, tensor, declared[name])
    return tensors


def _default(feature: Any) -> float | int | None:
    """What an optional input is filled with when it is left out; None for one that has to be given."""
    if not feature.type.isOptional or feature.type.WhichOneof("Type") != "multiArrayType":
        return None
    multi = feature.type.multiArrayType
    kind = multi.WhichOneof("defaultOptionalValue")
    return 0 if kind is None else getattr(multi, kind)


def _fitting(name: str, tensor: torch.Tensor, declared: Value) -> torch.Tensor:
    wanted = declared.shape
    if wanted is None:
        return tensor
    fits = tensor.ndim == len(wanted) and all(d in (None, n) for n, d in zip(tensor.shape, wanted, strict=True))
    if not fits:
        spelled = ", ".join("?" if d is None else str(d) for d in wanted)
        raise Error(f"the input {name} has the shape {tuple(tensor.shape)}; the program takes ({spelled})")
    return tensor


def _array(name: str, multi: Any, dtype: str, value: Any, rounds: bool) -> torch.Tensor:
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise Error(f"the input {name} cannot be read as an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise Error(f"the input {name} is an array of {array.dtype}; it takes numbers")
    _check_shape(name, multi, array.shape)
    return _typed(name, array, dtype, rounds)


def _typed(name: str, array: np.ndarray, dtype: str, rounds: bool) -> torch.Tensor:
    if dtype.startswith("FLOAT"):
        with np.errstate(over="ignore"):
            tensor = torch.from_numpy(np.array(array, np.float32))
        return tensor.half().float() if rounds and dtype == "FLOAT16" else tensor
    if dtype == "BOOL":
        return torch.from_numpy(np.array(array, np.bool_))
    low, high = (-128, 127) if dtype == "INT8" else (-(2**31), 2**31 - 1)
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise Error(f"the input {name} takes whole numbers; got {array.dtype} with other values")
    if array.size and not (low <= array.min() and array.max() <= high):
        raise Error(f"the input {name} takes whole numbers of {8 if high == 127 else 32} bits; got others")
    return torch.from_numpy(array.astype(np.int32))


def _check_shape(name: str, multi: Any, shape: tuple[int, ...]) -> None:
    flexible = multi.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        listed = [tuple(entry.shape) for entry in multi.enumeratedShapes.shapes]
        if shape not in listed:
            raise Error(f"the input {name} has the shape {shape}; listed are {', '.join(map(str, listed))}")
        return
    if flexible == "shapeRange":
        ranges = [(size.lowerBound, size.upperBound) for size in multi.shapeRange.sizeRanges]
    else:
        ranges = [(size, size) for size in multi.shape]
    inside = len(shape) == len(ranges) and all(
        low <= n and (high < 0 or n <= high) for n, (low, high) in zip(shape, ranges, strict=True)
    )
    if not inside:
        wanted = ", ".join(_range(*bounds) for bounds in ranges)
        raise Error(f"the input {name} has the shape {shape}; it takes ({wanted})")


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} or more" if high < 0 else f"{low} to {high}"


def _image(name: str, image: Any, value: Any, rounds: bool) -> torch.Tensor:
    """An image as the program takes it: (1, 3 or 1, height, width), values of 0 to 255 (float for GRAYSCALE_FLOAT16)."""
    space = color_name(image)
    if space not in COLORS:
        raise Error(f"the input {name} is an image of the color space {space}; it must be one of {', '.join(COLORS)}")
    mode, _, order = COLORS[space]
    if not (hasattr(value, "getbands") and hasattr(value, "mode")):
        raise Error(
            f"the input {name} is an image: it takes a PIL.Image of the mode {mode}, got {type(value).__name__}"
        )
    if value.mode != mode:
        raise Error(f"the input {name} takes an image of the mode {mode}, got {value.mode}", f"image.convert({mode!r})")
    _check_size(name, image, *value.size)
    array = np.array(value, np.float32)
    planes = array[..., list(order)].transpose(2, 0, 1) if order else array[None]
    tensor = torch.from_numpy(np.ascontiguousarray(planes[None]))
    return tensor.half().float() if rounds else tensor  # whole numbers up to 255 stay as they are


def _check_size(name: str, image: Any, width: int, height: int) -> None:
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        # The default size is one of those listed.
        listed = {(size.width, size.height) for size in image.enumeratedSizes.sizes} | {(image.width, image.height)}
        if (width, height) not in listed:
            sizes = ", ".join(f"{w} x {h}" for w, h in sorted(listed))
            raise Error(f"the input {name} is an image of {width} x {height}; listed are {sizes}")
        return
    wide = high = (0, 0)
    if flexible == "imageSizeRange":
        sizes = image.imageSizeRange
        wide = (sizes.widthRange.lowerBound, sizes.widthRange.upperBound)
        high = (sizes.heightRange.lowerBound, sizes.heightRange.upperBound)
    else:
        wide, high = (image.width, image.width), (image.height, image.height)
    if not all(low <= n and (top < 0 or n <= top) for n, (low, top) in ((width, wide), (height, high))):
        raise Error(f"the input {name} is an image of {width} x {height}; it takes {_range(*wide)} x {_range(*high)}")


def outputs(description: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What coremltools would give: float32 and int32 arrays of rank 1 at least, PIL images, labels and dictionaries."""
    result: dict[str, Any] = {}
    for feature in description.output:
        value, kind = values[feature.name], feature.type.WhichOneof("Type")
        if kind == "multiArrayType":
            multi = feature.type.multiArrayType
            whole = type_name(multi).startswith("INT")
            if not isinstance(value, torch.Tensor):
                raise Error(
                    f"the output {feature.name} is described as an array, and the program gives a {type(value)}"
                )
            array = value.to(torch.int32 if whole else torch.float32).contiguous().numpy()
            result[feature.name] = np.atleast_1d(array).copy()
        elif kind == "imageType":
            result[feature.name] = _image_of(feature.name, feature.type.imageType, value)
        else:
            result[feature.name] = value.item() if isinstance(value, torch.Tensor) else value
    return result


def _image_of(name: str, image: Any, value: torch.Tensor) -> Any:
    """A PIL image of a tensor (1, 3 or 1, height, width), whose values are rounded and kept within 0 to 255."""
    from PIL import Image

    space = color_name(image)
    if space not in COLORS or tuple(value.shape[:2]) != (1, 3 if COLORS[space][2] else 1) or value.ndim != 4:
        raise Error(f"the output {name} is an image of the color space {space}; its shape is {tuple(value.shape)}")
    _, mode, order = COLORS[space]
    planes = value[0].float()
    if mode == "F":
        return Image.fromarray(planes[0].contiguous().numpy().copy())
    pixels = planes.round().clamp(0, 255).nan_to_num(0).to(torch.uint8)
    if not order:
        return Image.fromarray(pixels[0].contiguous().numpy().copy())
    opaque = torch.full_like(pixels[:1], 255)
    return Image.fromarray(torch.cat([pixels[list(order)], opaque]).permute(1, 2, 0).contiguous().numpy(), mode)
