"""How two packages differ: inputs and outputs, metadata, operations, weights by name and content, sizes, costs."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from milbuild.inspection.report import FunctionInfo, Inspection, inspect
from milbuild.io.tables import Table
from milbuild.package.graph import Constant, Graph, Graphs
from milbuild.package.reader import Package, Source, path_of

PIECE = 1 << 24  # bytes that are compared at a time
SHOWN = 12  # lines of a table; --json has all


@dataclass(frozen=True)
class Change:
    """A difference: `where` is the package or a function, `before` and `after` are None for what is missing."""

    where: str
    what: str
    name: str
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """What differs between the packages `a` and `b`. `weight_file`: whether weight.bin has the same bytes in both."""

    a: Inspection
    b: Inspection
    changes: tuple[Change, ...]
    weight_file: bool

    @property
    def same(self) -> bool:
        return not self.changes

    def as_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "packages": [self.a.name, self.b.name],
            "weight_file_same": self.weight_file,
            "changes": [change.as_dict() for change in self.changes],
        }

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        weights = f"weight.bin is {'the same' if self.weight_file else 'different'}"
        verdict = "no differences" if self.same else f"{len(self.changes):,} difference{'s' * (len(self.changes) > 1)}"
        parts: list[Any] = [Text(f"{self.a.name} and {self.b.name}: {verdict}; {weights}", "bold")]
        groups: dict[tuple[str, str], list[Change]] = {}
        for change in self.changes:
            groups.setdefault((change.where, change.what), []).append(change)
        for (where, what), changes in groups.items():
            parts.append(Text(f"\n{what}{f' of {where}' if where else ''}", "bold"))
            first = next(c.before if c.before is not None else c.after for c in changes)
            side = "n" if isinstance(first, int) else "t"
            rows = [[change.name, _spelled(change.before), _spelled(change.after)] for change in changes[:SHOWN]]
            parts.append(Table(f"t{side}{side}", ["", "before", "after"], rows))
            if (left := len(changes) - SHOWN) > 0:
                parts.append(Text(f"and {left:,} more (--json lists them)"))
        return Group(*parts)


def _spelled(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def compare(a: Source, b: Source) -> Comparison:
    """Compares two packages; the values of weights are read from the mapped files, piece by piece.

    Weights are matched by the names of their constants. Where everything that is listed is the same, the programs are still
    compared operation by operation, so that "no difference" means that they are the same but for the offsets of weights.

    Raises `milbuild.Error` as `inspect` does.
    """
    found = inspect(a), inspect(b)
    one, two = (Graphs(Package(path_of(each))) for each in (a, b))
    same = _weight_files(one.package, two.package)
    changes = [*_package(*found), *_functions(*found), *_weights(one, two, same)]
    # Nothing more needs to be said of functions whose numbers of operations differ.
    counted = {change.where for change in changes if change.what == "operations"}
    changes += _programs(one, two, counted)
    return Comparison(*found, tuple(changes), same)


def _package(a: Inspection, b: Inspection) -> Iterator[Change]:
    plain = {"specification version": "version", "default function": "default"}
    for name, attribute in plain.items():
        yield from _one("", "package", name, str(getattr(a, attribute)), str(getattr(b, attribute)))
    yield from _dictionary("", "metadata", _opened(a.metadata), _opened(b.metadata))
    yield from _one("", "bytes", "package", a.bytes, b.bytes)
    yield from _one("", "bytes", "weight.bin", a.weights, b.weights)


def _opened(metadata: dict[str, str]) -> dict[str, Any]:
    """With an entry for each entry of JSON objects, as a build's options are."""
    found: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            inner = json.loads(text)
        except ValueError:
            inner = None
        found.update(
            {f"{name}: {key}": json.dumps(value) for key, value in inner.items()}
            if isinstance(inner, dict)
            else {name: text}
        )
    return found


def _functions(a: Inspection, b: Inspection) -> Iterator[Change]:
    for name in dict.fromkeys([*a.functions, *b.functions]):
        one, two = a.functions.get(name), b.functions.get(name)
        if one is None or two is None:
            sizes = [None if info is None else f"{info.total:,} operations" for info in (one, two)]
            yield Change("", "functions", name, *sizes)
            continue
        for what, attribute in (("inputs", "inputs"), ("outputs", "outputs"), ("states", "states")):
            yield from _dictionary(name, what, getattr(one, attribute), getattr(two, attribute))
        yield from _dictionary(name, "operations", one.operations, two.operations)
        yield from _one(name, "operations", "constants", one.constants, two.constants)
        yield from _dictionary(name, "costs of a call", _costs(one), _costs(two))


def _costs(info: FunctionInfo) -> dict[str, Any]:
    if info.costs is None:
        return {}
    return {"multiply-accumulates": info.macs, "bytes moved": info.costs.bytes, "of these weights": info.costs.weights}


def _one(where: str, what: str, name: str, before: Any, after: Any) -> Iterator[Change]:
    if before != after:
        yield Change(where, what, name, before, after)


def _dictionary(where: str, what: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        yield from _one(where, what, name, before.get(name), after.get(name))


# Weights


def _stored(read: Graphs) -> dict[str, Constant]:
    """The constants in files, by name; where two functions use a name for different constants, with the function's name."""
    found: dict[str, Constant] = {}
    for graph in read.graphs:
        for operation, constant in graph.constants:
            if constant.place is not None:
                # Several constants bound in place to one operation have its name.
                names = [operation.name, f"{graph.name}: {operation.name}"]
                numbered = (f"{names[1]} {number}" for number in itertools.count(2))
                name = next(name for name in itertools.chain(names, numbered) if found.get(name, constant) is constant)
                found[name] = constant
    return found


def _weights(a: Graphs, b: Graphs, same_file: bool) -> Iterator[Change]:
    one, two = _stored(a), _stored(b)
    for name in dict.fromkeys([*one, *two]):
        before, after = one.get(name), two.get(name)
        if before is None or after is None or _kind(before) != _kind(after):
            yield Change("", "weights", name, before and _kind(before), after and _kind(after))
        elif not (same_file and before.place == after.place) and not _equal(before.stored(), after.stored()):
            yield Change("", "weights", name, _kind(before), f"{_kind(after)}, different values")


def _kind(constant: Constant) -> str:
    return f"{constant.dtype.lower()} ({', '.join(map(str, constant.shape))})"


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether bytes are the same, compared a piece at a time."""
    if a.size != b.size:
        return False
    return all(np.array_equal(a[at : at + PIECE], b[at : at + PIECE]) for at in range(0, a.size, PIECE))


def _weight_files(a: Package, b: Package) -> bool:
    """Whether the files of weights have the same names and bytes."""
    files = [{path.name: path for path in sorted(one.path.rglob("*.bin"))} for one in (a, b)]
    if files[0].keys() != files[1].keys():
        return False
    for name in files[0]:
        sizes = [each[name].stat().st_size for each in files]
        if sizes[0] != sizes[1]:
            return False
        if sizes[0] and not _equal(*(np.memmap(each[name], np.uint8, "r") for each in files)):
            return False
    return True


# Programs


def _programs(a: Graphs, b: Graphs, counted: set[str]) -> Iterator[Change]:
    for name, graph in a.by_name.items():
        other = b.by_name.get(name)
        if other is None or name in counted:
            continue
        one, two = list(_spelling(graph)), list(_spelling(other))
        if Counter(one) == Counter(two) and one != two:
            yield Change(name, "program", "order of operations", "one", "another")
        elif one != two:
            at = next(i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
            number = sum((Counter(one) - Counter(two)).values())
            yield Change(
                name, "program", f"names or parameters of {number:,} operations; the first", one[at][0], two[at][0]
            )


def _spelling(graph: Graph) -> Iterator[tuple[str, str]]:
    """Every operation as (name and type, everything else but the offsets and the values of weights)."""
    for operation in graph.operations:
        inputs = {key: [_text_of(entry) for entry in entries] for key, entries in sorted(operation.inputs.items())}
        held = {key: _text_of(value) for key, value in sorted(operation.attributes.items())}
        outputs = [(value.name, value.dtype, value.shape) for value in operation.outputs]
        blocks = [(block.inputs, block.outputs) for block in operation.blocks]
        yield f"{operation.name} ({operation.type})", f"{graph.depth[id(operation)]} {inputs} {held} {outputs} {blocks}"


def _text_of(entry: Any) -> str:
    if isinstance(entry, Constant) and entry.place is not None:
        return _kind(entry)
    values = entry.values() if isinstance(entry, Constant) else entry
    if isinstance(values, np.ndarray):
        return f"{values.dtype} {values.shape} {values.tolist() if values.dtype == object else values.tobytes().hex()}"
    return repr(values)
