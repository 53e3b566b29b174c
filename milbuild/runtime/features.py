"""Inputs and outputs as Core ML takes and gives them, checked against the package's description."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from milbuild.errors import Error


def inputs(features: Iterable[Any], data: dict[str, Any], where: str) -> dict[str, torch.Tensor]:
    """The tensors of a call. Raises `Error` for a missing or unknown name, a wrong type, rank or shape."""
    described = {feature.name: feature for feature in features}
    if unknown := sorted(data.keys() - described.keys()):
        raise Error(f"{where} has no input {', '.join(unknown)}; it has {', '.join(described)}")
    if missing := sorted(described.keys() - data.keys()):
        raise Error(f"{where} needs the input {', '.join(missing)}")
    return {name: _tensor(name, feature, data[name]) for name, feature in described.items()}


def _tensor(name: str, feature: Any, value: Any) -> torch.Tensor:
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise Error(f"the input {name} is a {feature.type.WhichOneof('Type')}, which is not read yet")
    multi = feature.type.multiArrayType
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise Error(f"the input {name} is an array of {array.dtype}; it takes numbers")
    _check_shape(name, multi, array.shape)
    kind = multi.ArrayDataType.Name(multi.dataType)
    if kind != "INT32":
        return (
            torch.from_numpy(array.astype(np.float32))
            if kind != "FLOAT16"
            else torch.from_numpy(array.astype(np.float16).astype(np.float32))
        )
    whole = array.astype(np.int32)
    if not np.array_equal(whole, array):
        raise Error(f"the input {name} takes whole numbers of 32 bits; got {array.dtype} with other values")
    return torch.from_numpy(whole)


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
        wanted = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
        raise Error(f"the input {name} has the shape {shape}; it takes ({wanted})")


def outputs(features: Iterable[Any], values: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that coremltools would give: float32 and int32, of rank 1 at least."""
    result = {}
    for feature in features:
        tensor = values[feature.name]
        result[feature.name] = np.atleast_1d(tensor.contiguous().numpy()).copy()
    return result
