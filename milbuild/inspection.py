"""What stands in a saved package, ours or anybody's: functions, interfaces, operations, weights."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milbuild.package.reader import Package


@dataclass(frozen=True)
class FunctionInfo:
    """One function; `operations` counts those that are not constants, by type, `constants` the constants."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    states: dict[str, str]
    operations: dict[str, int]
    constants: int

    @property
    def total(self) -> int:
        return sum(self.operations.values())


@dataclass(frozen=True)
class Inspection:
    """What `inspect` finds. `bytes` is the package on the disk, `weights` its weight.bin alone."""

    name: str
    version: int
    functions: dict[str, FunctionInfo]
    default: str
    bytes: int
    weights: int
    metadata: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        functions = {name: vars(function) | {"total": function.total} for name, function in self.functions.items()}
        return {**vars(self), "functions": functions}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines: list[Any] = [
            Text(f"{self.name}: {self.bytes / 1e6:,.1f} MB, specification version {self.version}", "bold"),
        ]
        for name, function in self.functions.items():
            table = Table(
                box=None,
                show_header=False,
                pad_edge=False,
                title=f"function {name}",
                title_justify="left",
                title_style="bold",
            )
            for kind, features in (
                ("input", function.inputs),
                ("state", function.states),
                ("output", function.outputs),
            ):
                for feature, spelled in features.items():
                    table.add_row(kind, feature, spelled)
            counted = ", ".join(f"{count} {operation}" for operation, count in function.operations.items())
            table.add_row("operations", str(function.total), counted)
            lines.append(table)
        table = Table(
            box=None, show_header=False, pad_edge=False, title="metadata", title_justify="left", title_style="bold"
        )
        for key, value in self.metadata.items():
            table.add_row(key, value)
        return Group(*lines, table)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Reads a package's description and operations, not its weights. Raises `Error` for what is no ML Program."""
    package = Package(Path(path))
    files = [file for file in package.path.rglob("*") if file.is_file()]
    metadata = package.spec.description.metadata
    named = {"description": metadata.shortDescription, "author": metadata.author, "license": metadata.license}
    return Inspection(
        package.path.name,
        package.spec.specificationVersion,
        {name: _function(package, name) for name in package.function_names},
        package.default_function,
        sum(file.stat().st_size for file in files),
        sum(file.stat().st_size for file in files if file.name == "weight.bin"),
        {key: value for key, value in named.items() if value} | dict(sorted(metadata.userDefined.items())),
    )


def _function(package: Package, name: str) -> FunctionInfo:
    operations = Counter(operation.type for operation in package.function(name).operations)
    constants = operations.pop("const", 0)
    description = package.description(name)
    return FunctionInfo(
        {feature.name: _spell(feature) for feature in description.input},
        {feature.name: _spell(feature) for feature in description.output},
        {feature.name: _spell(feature) for feature in description.state},
        dict(operations.most_common()),
        constants,
    )


def _spell(feature: Any) -> str:
    kind = feature.type.WhichOneof("Type")
    array = feature.type.stateType.arrayType if kind == "stateType" else feature.type.multiArrayType
    if kind not in ("stateType", "multiArrayType"):
        return str(kind)
    dtype = array.ArrayDataType.Name(array.dataType).lower()
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        shape = " or ".join(f"({', '.join(map(str, entry.shape))})" for entry in array.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        bounds = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
        shape = f"({', '.join(str(low) if low == high else f'{low}..{high}' for low, high in bounds)})"
    else:
        shape = f"({', '.join(map(str, array.shape))})" if array.shape else "(as the inputs are)"
    return f"{dtype} {shape}"
