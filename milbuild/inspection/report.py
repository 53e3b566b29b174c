"""What `inspect` reports: functions, interfaces, operations, weights, costs of a call, and upper bounds of its speed."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from milbuild.errors import Error
from milbuild.inspection.bandwidth import TABLE
from milbuild.inspection.costs import Costs, Ledger, Unknown, Weight
from milbuild.inspection.shapes import open_lengths, run_for_shapes
from milbuild.io.tables import Table
from milbuild.package.graph import Graph, Graphs, pattern
from milbuild.package.reader import Package, Source, color_name, path_of, target, type_name

Shape = tuple[int, ...]
TOKENS = re.compile(r"(decoder_?)?(input_?ids?|token_?ids|tokens)", re.IGNORECASE)
CACHE = re.compile(r"past|cache", re.IGNORECASE)
FLEXIBLE = "flexible shapes"


@dataclass(frozen=True)
class WeightGroup:
    """Weights of one type and compression: how many, their elements, the bytes they take as they are stored."""

    type: str
    compression: str
    number: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class FunctionInfo:
    """One function; `operations` counts those that are not constants, by type, `constants` the constants.

    `weights` are the bytes of the weights it reads from, `weights_only` of those no other function reads. `tokens`: ids that
    a call takes, None for a function without any; `decodes`: one, with a cache. `costs` are those of a call at the sizes
    `shapes` of the inputs that are flexible; None where they are not known, and `unknown` then says why.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    states: dict[str, str]
    operations: dict[str, int]
    constants: int
    weights: int = 0
    weights_only: int = 0
    tokens: int | None = None
    decodes: bool = False
    shapes: dict[str, Shape] = field(default_factory=dict)
    costs: Costs | None = None
    unknown: str | None = None

    @property
    def total(self) -> int:
        return sum(self.operations.values())

    @property
    def macs(self) -> int | None:
        return None if self.costs is None else sum(self.costs.macs.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "states": self.states,
            "operations": self.operations,
            "constants": self.constants,
            "total": self.total,
            "weights": self.weights,
            "weights_only": self.weights_only,
            "tokens": self.tokens,
            "decodes": self.decodes,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "multiply_accumulates": self.macs,
            "multiply_accumulates_by_type": None if self.costs is None else self.costs.macs,
            "bytes_moved": None if self.costs is None else self._moved(self.costs),
            "bounds": self._bounds(),
            "unknown": self.unknown,
        }

    @staticmethod
    def _moved(costs: Costs) -> dict[str, int]:
        parts = asdict(costs)
        del parts["macs"]
        return {**parts, "total": costs.bytes}

    def _bounds(self) -> list[dict[str, Any]] | None:
        if self.costs is None or not self.costs.bytes:
            return None
        found = []
        for row in TABLE:
            calls = [round(number, 2) for number in row.calls(self.costs.bytes)]
            computed = row.computed(self.macs or 0)
            entry = {**asdict(row), "calls_per_second": calls}
            entry["calls_per_second_by_arithmetic"] = None if computed is None else round(computed, 2)
            found.append(entry | ({"tokens_per_second": calls} if self.decodes else {}))
        return found


@dataclass(frozen=True)
class Inspection:
    """What `inspect` finds. `bytes` is the package on the disk, `weights` its weight.bin alone.

    `weight_groups` are the weights that operations read, by type and compression; what functions share counts once.
    """

    name: str
    version: int
    functions: dict[str, FunctionInfo]
    default: str
    bytes: int
    weights: int
    metadata: dict[str, str]
    weight_groups: tuple[WeightGroup, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For machines: what `milbuild inspect --json` prints."""
        return {
            "name": self.name,
            "version": self.version,
            "target": target(self.version),
            "functions": {name: function.as_dict() for name, function in self.functions.items()},
            "default": self.default,
            "bytes": self.bytes,
            "weights": self.weights,
            "weights_by_type": [asdict(group) for group in self.weight_groups],
            "metadata": self.metadata,
        }

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        size = f"{self.name}: {scaled(self.bytes)} MB, of which weights {scaled(self.weights)} MB"
        parts: list[Any] = [Text(f"{size}; {target(self.version)} (specification version {self.version})", "bold")]
        for name, function in self.functions.items():
            default = " (default)" if name == self.default and len(self.functions) > 1 else ""
            parts += [Text(f"\nfunction {name}{default}", "bold"), self._interface(function)]
        parts += [Text("\ncosts of a call", "bold"), self._counts()]
        parts += [Text(f"{name}: {f.unknown}") for name, f in self.functions.items() if f.unknown]
        if self.weight_groups:
            once = " (those that functions share count once)" if self._shared else ""
            parts += [Text(f"\nweights{once}", "bold"), self._weights()]
        if any(function.costs is not None and function.costs.bytes for function in self.functions.values()):
            parts += [Text(f"\n{BOUND}", "bold"), self._bounds()]
        if self.metadata:
            parts += [Text("\nmetadata", "bold"), self._metadata()]
        return Group(*parts)

    @property
    def _shared(self) -> bool:
        return sum(f.weights for f in self.functions.values()) > sum(group.bytes for group in self.weight_groups)

    def _interface(self, function: FunctionInfo) -> Table:
        """Features that differ only in the number of a layer are one line."""
        rows = []
        for kind, features in (("input", function.inputs), ("state", function.states), ("output", function.outputs)):
            groups: dict[tuple[str, str], list[str]] = {}
            for name, spelled in features.items():
                groups.setdefault((pattern(name), spelled), []).append(name)
            for (name, spelled), names in groups.items():
                many = f"{spelled}, {len(names)} times" if len(names) > 1 else spelled
                rows.append([kind, name if len(names) > 1 else names[0], many])
        return Table("ltt", ["", "", ""], rows)

    def _counts(self) -> Table:
        """A column for each function."""
        functions = list(self.functions.values())
        types = Counter[str]()
        for function in functions:
            types.update(function.operations)
        rows = []

        def row(name: str, *figures: str) -> None:
            rows.append([name, *figures])

        if any(function.tokens for function in functions):
            row("tokens", *(_number(function.tokens) for function in functions))
        for name in dict.fromkeys(name for function in functions for name in function.shapes):
            row(
                f"{name} of the shape",
                *(str(function.shapes.get(name, "-")).replace("'", "") for function in functions),
            )
        row("operations", *(_number(function.total) for function in functions))
        shown = [kind for kind, _ in types.most_common(SHOWN)]
        for kind in shown:
            row(f"  {kind}", *(_number(function.operations.get(kind)) for function in functions))
        if left := len(types) - len(shown):
            rest = [sum(n for kind, n in f.operations.items() if kind not in shown) for f in functions]
            row(f"  {left} other type{'' if left == 1 else 's'}", *(_number(n or None) for n in rest))
        row("constants", *(_number(function.constants) for function in functions))
        row("million multiply-accumulates", *(scaled(function.macs) for function in functions))
        row("MB moved, at least", *(scaled(None if f.costs is None else f.costs.bytes) for f in functions))
        for spelled, part in PARTS.items():
            if any(f.costs is not None and getattr(f.costs, part) for f in functions):
                row(f"  {spelled}", *(scaled(None if f.costs is None else getattr(f.costs, part)) for f in functions))
        return Table("t" + "n" * len(functions), ["", *self.functions], rows)

    def _weights(self) -> Table:
        rows = [
            [group.type, group.compression, _number(group.number), _number(group.elements), scaled(group.bytes)]
            for group in self.weight_groups
        ]
        return Table("ttnnn", ["type", "compression", "number", "elements", "MB"], rows)

    def _bounds(self) -> Table:
        """A line for each compute unit of each chip."""
        known = {name: f for name, f in self.functions.items() if f.costs is not None and f.costs.bytes}
        heads = ["chip", "unit", "GB/s", "TFLOPS"]
        for name, function in known.items():
            what = "tokens/s" if function.decodes else "calls/s"
            named = what if len(self.functions) == 1 else f"{name} {what}"
            heads += [f"{named}, memory", "arithmetic"]
        rows = []
        for row in TABLE:
            cells = [f"{row.low:.1f}" if row.low == row.high else _span(row.low, row.high)]
            cells.append("-" if row.tflops is None else f"{row.tflops:g}")
            for function in known.values():
                assert function.costs is not None
                computed = row.computed(function.macs or 0)
                cells += [
                    _span(*row.calls(function.costs.bytes)),
                    "-" if computed is None else _span(computed, computed),
                ]
            rows.append([row.chip, row.unit, *cells, row.confidence])
        return Table("tt" + "n" * (len(heads) - 2) + "l", [*heads, "confidence"], rows)

    def _metadata(self) -> Table:
        return Table("tt", ["", ""], [[key, _spaced(value)] for key, value in self.metadata.items()])


SHOWN = 8  # operation types that have a line of their own; --json has all
BOUND = "at most, by memory bandwidth and by arithmetic; the lower one counts: an upper bound, not a measurement"
PARTS = {
    "weights": "weights",
    "states, read": "states_read",
    "states, written": "states_written",
    "inputs": "inputs",
    "outputs": "outputs",
}


def _spaced(text: str) -> str:
    """JSON with a space between entries, where a line may end."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else text


def scaled(count: int | None) -> str:
    """In millions: 0.3 for a small number, never 0.0 unless it is 0."""
    if count is None:
        return "unknown"
    scaled = count / 1e6
    digits = 1 if scaled >= 10 or not count else min(6, max(1, 1 - math.floor(math.log10(scaled))))
    return f"{scaled:,.{digits}f}"


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _span(low: float, high: float) -> str:
    def spelled(number: float) -> str:
        return f"{number:,.0f}" if number >= 10 else f"{number:,.1f}"

    return spelled(low) if spelled(low) == spelled(high) else f"{spelled(low)} to {spelled(high)}"


def inspect(package: Source, shapes: dict[str, Shape] | None = None, *, flexible: bool = True) -> Inspection:
    """Reads a package, but not the values of its weights.

    Args:
        package: a saved ML Program, whoever built it, or a `milbuild.Model`.
        shapes: of inputs whose shape is flexible, at which the costs of a call are counted; by default the description's.
        flexible: whether to count the costs of functions with flexible shapes. They are run once in `milbuild.runtime`, with
            zeros for weights, which needs PyTorch; without it their costs are unknown.

    Raises:
        milbuild.Error: for what is not an ML Program, for shapes of inputs that it does not have or that they do not take, and
            for such shapes without PyTorch.
    """
    read, found = ledgers(package, shapes, flexible)
    files = [file for file in read.path.rglob("*") if file.is_file()]
    metadata = read.spec.description.metadata
    named = {"description": metadata.shortDescription, "author": metadata.author, "license": metadata.license,
             "version": metadata.versionString}  # fmt: skip
    weights = {name: ledger.weights() for name, (ledger, _) in found.items()}
    merged = {key: weight for own in weights.values() for key, weight in own.items()}
    return Inspection(
        read.path.name,
        read.spec.specificationVersion,
        {name: _function(*entry, weights) for name, entry in found.items()},
        read.default_function,
        sum(file.stat().st_size for file in files),
        sum(file.stat().st_size for file in files if file.name == "weight.bin"),
        {key: value for key, value in named.items() if value} | dict(sorted(metadata.userDefined.items())),
        _groups(merged.values()),
    )


def ledgers(
    package: Source, shapes: dict[str, Shape] | None = None, flexible: bool = True
) -> tuple[Package, dict[str, tuple[Ledger, str | None]]]:
    """A package, and its functions with the shapes of a call; with each the reason why they are not known, if they are not.

    Takes what `inspect` takes, and raises what it does.
    """
    read = Package(path_of(package))
    graphs = Graphs(read)
    asked = dict(shapes or {})
    known = {value.name for graph in graphs.graphs for value in graph.function.inputs if not value.is_state}
    if strange := sorted(asked.keys() - known):
        raise Error(f"{read.path.name} has no input {', '.join(strange)}; it has {', '.join(sorted(known))}")
    return read, {graph.name: _ledger(read, graph, asked, flexible) for graph in graphs.graphs}


def _ledger(package: Package, graph: Graph, asked: dict[str, Shape], flexible: bool) -> tuple[Ledger, str | None]:
    """A function with the shapes of a call; and the reason why they are not known, if they are not."""
    mine = {value.name: asked[value.name] for value in graph.function.inputs if value.name in asked}
    if not mine and not open_lengths(graph):
        return Ledger(graph), None
    if not flexible:
        return Ledger(graph), FLEXIBLE
    try:
        return Ledger(graph, run_for_shapes(package, graph.name, mine)), None
    except Error as error:
        if mine:
            raise
        return Ledger(graph), f"{FLEXIBLE}: {error.message}"


def _function(ledger: Ledger, unknown: str | None, weights: dict[str, dict[Any, Weight]]) -> FunctionInfo:
    graph = ledger.graph
    operations = Counter(operation.type for operation in graph.function.operations)
    constants = operations.pop("const", 0)
    costs = None
    if unknown is None:
        try:
            costs = ledger.costs()
        except Unknown as error:
            unknown = f"the program does not say the shape of {error}"
    own = weights[graph.name]
    others = {part for name, found in weights.items() if name != graph.name for key in found for part in key}
    parts = {part: count for weight in own.values() for part, count in weight.stored.items()}
    tokens = _tokens(ledger)
    inputs = {feature.name: spell(feature) for feature in graph.description.input}
    states = {feature.name: spell(feature) for feature in graph.description.state}
    return FunctionInfo(
        inputs,
        {feature.name: spell(feature) for feature in graph.description.output},
        states,
        dict(operations.most_common()),
        constants,
        sum(parts.values()),
        sum(count for part, count in parts.items() if part not in others),
        tokens,
        tokens == 1 and bool(states or any(CACHE.search(name) for name in inputs)),
        {name: shape for name, shape in ledger.measured.items() if name in inputs and None in _declared(graph, name)},
        costs,
        unknown,
    )


def _declared(graph: Graph, name: str) -> tuple[int | None, ...]:
    value = graph.values.get(name)
    return (None,) if value is None or value.shape is None else value.shape


def _tokens(ledger: Ledger) -> int | None:
    """How many ids a call takes: the elements of an input that is called input_ids, in any spelling."""
    for value in ledger.graph.function.inputs:
        if TOKENS.fullmatch(value.name) and value.dtype.startswith("INT"):
            try:
                return math.prod(ledger.shape(value.name))
            except Unknown:
                return None
    return None


def _groups(weights: Iterable[Weight]) -> tuple[WeightGroup, ...]:
    """The largest first. A part that several weights share counts for the first of them."""
    found: dict[tuple[str, str], list[int]] = {}
    seen: set[Any] = set()
    for weight in weights:
        row = found.setdefault((weight.type, weight.compression), [0, 0, 0])
        row[0] += 1
        row[1] += math.prod(weight.shape)
        row[2] += sum(count for part, count in weight.stored.items() if part not in seen)
        seen.update(weight.stored)
    groups = [WeightGroup(*key, *row) for key, row in found.items()]
    return tuple(sorted(groups, key=lambda group: -group.bytes))


def spell(feature: Any) -> str:
    """A feature's type and shape, as people write it: float16 (1, 64), int32 (1, 1..128)."""
    kind = feature.type.WhichOneof("Type")
    array = feature.type.stateType.arrayType if kind == "stateType" else feature.type.multiArrayType
    if kind == "imageType":
        image = feature.type.imageType
        color = color_name(image)
        return f"image {color}, {image.height} x {image.width}"
    if kind not in ("stateType", "multiArrayType"):
        return str(kind)
    dtype = type_name(array).lower()
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        shape = " or ".join(f"({', '.join(map(str, entry.shape))})" for entry in array.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        bounds = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
        shape = f"({', '.join(str(low) if low == high else f'{low}..{high}' for low, high in bounds)})"
    else:
        shape = f"({', '.join(map(str, array.shape))})" if array.shape else "(as the inputs are)"
    return f"{dtype} {shape}"
