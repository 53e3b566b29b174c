"""A function as a short list of rows: repeated layers are folded into one, operations that matter have their own row.

Names that are paths of modules (`transformer_h_0_attn_c_attn`) say what belongs together. Where they are not, as after
tracing (`op_45_cast_fp16`), the repetition is found by the types and shapes of the operations.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from milbuild.inspection.costs import MULTIPLYING, Ledger, Unknown
from milbuild.package.graph import COMPRESSED, MOVES
from milbuild.package.reader import Operation

NORMS = {"layer_norm", "batch_norm", "instance_norm", "l2_norm", "local_response_norm"}
ACTIVATIONS = {"relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "softmax", "leaky_relu", "prelu", "elu", "clamped_relu",
               "sigmoid_hard", "softplus", "softsign", "erf"}  # fmt: skip
POOLS = {"avg_pool", "max_pool", "l2_pool", "reduce_mean", "upsample_bilinear", "upsample_nearest_neighbor", "classify"}
STATES = {"read_state", "write_state"}
SMALL = 6  # operations; a group of fewer with one that matters is a row
LIMIT = 80  # rows; a graph of more is drawn coarser
Tokens = tuple[str, ...]


@dataclass
class Row:
    """Operations that are drawn as one line. `kind` says what colour: product, norm, activation, table, sum, other."""

    label: str
    operations: list[Operation]
    kind: str
    note: str = ""  # instead of the operations' types
    times: int = 1  # of the fold that it is in


@dataclass
class Group:
    """Rows and groups that belong together. `times` > 1: it is drawn for so many layers, whose operations are `others`.

    `same` maps the id of an operation of those others to the operation that is drawn for it, `layer` the id of any to the
    number of the layer that it is in.
    """

    label: str
    children: "list[Row | Group]"
    times: int = 1
    counts: tuple[int, int] = (0, 0)  # operations of each: the fewest, the most
    others: list[Operation] = field(default_factory=list)
    same: dict[int, Operation] = field(default_factory=dict)
    layer: dict[int, int] = field(default_factory=dict)
    signature: tuple[object, ...] = ()
    operations: list[Operation] = field(default_factory=list)


@dataclass(frozen=True)
class _Item:
    operation: Operation
    tokens: Tokens
    foreign: bool = False  # its name is not under that of the layer it is in


@dataclass(frozen=True)
class _Layer:
    prefix: Tokens
    number: str
    items: list[_Item]


def outline(ledger: Ledger) -> list[Row | Group]:
    """The rows of a function in the order of computation, at most about a hundred."""
    operations = [
        op for op in ledger.graph.function.operations if op.type != "const" and not op.type.startswith(COMPRESSED)
    ]
    items = [_Item(op, _tokens(op.name)) for op in operations]
    found = _Outliner(ledger).of(items)
    _fold_alike(found, {})
    if count(found) > LIMIT:
        found = [_coarser(one, ledger) if isinstance(one, Group) else one for one in found]
        found = _merged(found, ledger, max(1, math.ceil(count(found) / LIMIT)))
    _multiply(found, 1)
    return found


def rows(children: list[Row | Group]) -> Iterator[Row]:
    for child in children:
        if isinstance(child, Row):
            yield child
        else:
            yield from rows(child.children)


def count(children: list[Row | Group]) -> int:
    return sum(1 for _ in rows(children))


def _tokens(name: str) -> Tokens:
    return tuple(
        part for part in re.split(r"[_./]+", name.removesuffix("_cast_fp16").removesuffix("_cast_fp32")) if part
    )


def _join(tokens: Tokens) -> str:
    return "_".join(tokens)


class _Outliner:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def of(self, items: list[_Item]) -> list[Row | Group]:
        layers = _layers(items)
        if layers:
            return self._by_path(items, layers, inside=False)
        return self._by_pattern(items)

    # By names

    def _by_path(self, items: list[_Item], layers: list[tuple[int, int, _Layer]], inside: bool) -> list[Row | Group]:
        found: list[Row | Group] = []
        at = 0
        while layers:
            first, last, layer = layers[0]
            found += self._loose(items[at:first], inside)
            alike = [layer]
            signature = self._signature(layer.items)
            while len(alike) < len(layers) and layers[len(alike)][0] == last + 1:
                _, end, other = layers[len(alike)]
                if other.prefix != layer.prefix or self._signature(other.items) != signature:
                    break
                alike.append(other)
                last = end
            found.append(self._folded(alike))
            at, layers = last + 1, layers[len(alike) :]
        return found + self._loose(items[at:], inside)

    def _folded(self, alike: list[_Layer]) -> Group:
        """One for all; that with the number of operations that most have."""
        sizes = Counter(len(layer.items) for layer in alike)
        shown = next(layer for layer in alike if len(layer.items) == sizes.most_common(1)[0][0])
        drawn = {item.tokens: item.operation for item in shown.items}
        others = [item for layer in alike if layer is not shown for item in layer.items]
        first, last = alike[0], alike[-1]
        label = _join((*first.prefix, first.number)) + (f" … {last.number}" if len(alike) > 1 else "")
        inner = _layers(shown.items)
        return Group(
            label,
            self._by_path(shown.items, inner, inside=True) if inner else self._loose(shown.items, True),
            len(alike),
            (min(sizes), max(sizes)),
            [item.operation for item in others],
            {id(item.operation): drawn[item.tokens] for item in others if item.tokens in drawn},
            {id(item.operation): number for number, layer in enumerate(alike) for item in layer.items},
            tuple((item.operation.type, item.tokens) for item in shown.items if not item.foreign),
            [item.operation for item in shown.items],
        )

    def _signature(self, items: list[_Item]) -> list[object]:
        """What layers must have in common: all but operations that move and store, of which the first may have more."""
        return [
            (item.operation.type, item.tokens, [value.shape for value in item.operation.outputs])
            for item in items
            if item.operation.type not in MOVES | STATES | {"slice_update"} and not item.foreign
        ]

    def _loose(self, items: list[_Item], inside: bool) -> list[Row | Group]:
        """Inside of a layer, what begins with the same word (attn, mlp) is a group."""
        found: list[Row | Group] = []
        runs: list[tuple[str, list[_Item]]] = []
        for item in items:
            numbered = len(item.tokens) > 1 and item.tokens[1].isdigit()
            word = item.tokens[0] if item.tokens and inside and not numbered else ""
            if runs and (item.foreign or runs[-1][0] == word):
                runs[-1][1].append(item)
            else:
                runs.append((word, [item]))
        for word, run in runs:
            own = [item.tokens for item in run if not item.foreign]
            common = _common(own) if run and inside and len(own) > 1 and run[0].tokens[:1] == (word,) else ()
            inner = self._rows(run, len(common))
            if common and len(inner) > 1 and len(run) <= SMALL and sum(row.kind != "other" for row in inner) == 1:
                # A norm that takes several operations, say.
                found.append(Row(_join(common), [item.operation for item in run], _joined(inner).kind))
            elif common and len(inner) > 1:
                found.append(Group(_join(common), list(inner), counts=(len(run), len(run))))
            else:
                found += self._rows(run, 0) if len(inner) > 1 or not common else inner
                if common and len(inner) == 1:
                    found[-1] = Row(_join(common), inner[0].operations, inner[0].kind)
        return found

    def _rows(self, items: list[_Item], strip: int) -> list[Row]:
        found: list[Row] = []
        minor: list[_Item] = []

        def flush() -> None:
            if minor:
                own = [item.tokens for item in minor if not item.foreign]
                label = _join(_common(own)[strip:]) if len(own) > 1 else _join(own[0][strip:]) if own else ""
                found.append(Row(label, [item.operation for item in minor], "other"))
                minor.clear()

        for item in items:
            kind = self.kind(item.operation)
            if kind == "other":
                minor.append(item)
            else:
                flush()
                found.append(Row(_join(item.tokens if item.foreign else item.tokens[strip:]), [item.operation], kind))
        flush()
        return found

    # By the pattern of types and shapes

    def _by_pattern(self, items: list[_Item]) -> list[Row | Group]:
        known: dict[object, int] = {}
        signs = [known.setdefault(self._sign(item.operation), len(known)) for item in items]
        start, period, times = _repetition(signs)
        if times < 2:
            return list(self._rows(items, 0))
        slack = _run(signs, start, period) - (times - 1) * period
        start += min(range(slack + 1), key=lambda by: self._crossing(items, start + by))
        shown, end = items[start : start + period], start + times * period
        pairs = [
            (item.operation, shown[at % period].operation) for at, item in enumerate(items[start:end]) if at >= period
        ]
        group = Group(
            "",
            list(self._rows(shown, 0)),
            times,
            (period, period),
            [other for other, _ in pairs],
            {id(other): drawn for other, drawn in pairs},
            {id(item.operation): at // period for at, item in enumerate(items[start:end])},
            tuple(item.operation.type for item in shown),
            [item.operation for item in shown],
        )
        return [*self._by_pattern(items[:start]), group, *self._by_pattern(items[end:])]

    def _sign(self, operation: Operation) -> object:
        return operation.type, tuple(value.shape for value in operation.outputs), self.ledger.stored(operation)

    def _crossing(self, items: list[_Item], at: int) -> int:
        """How many values made before a place are read after it: one, where layers meet."""
        made = {value.name for item in items[:at] for value in item.operation.outputs}
        # A mask that all layers read crosses everywhere.
        return len({entry for item in items[at:] for entry in self.ledger.graph.entries(item.operation)
                    if isinstance(entry, str) and entry in made})  # fmt: skip

    def kind(self, operation: Operation) -> str:
        graph = self.ledger.graph
        if operation.type in MULTIPLYING:
            return "product"
        if operation.type in NORMS:
            return "norm"
        if operation.type in ACTIVATIONS or operation.type in POOLS or operation.blocks:
            return "activation"
        if operation.type == "gather" and self.ledger.stored(operation) and graph.is_constant(operation.inputs["x"][0]):
            return "table"
        if operation.type == "add":
            # Of two computed values of the full shape: a residual connection.
            shapes = {self._shape(entry) for entry in graph.entries(operation) if not graph.is_constant(entry)}
            if len(graph.entries(operation)) == 2 and len(shapes) == 1 and len(next(iter(shapes)) or ()) > 2:
                both = all(not graph.is_constant(entry) for entry in graph.entries(operation))
                return "sum" if both else "other"
        return "other"

    def _shape(self, entry: object) -> tuple[int | None, ...] | None:
        value = self.ledger.graph.type_of(entry)
        return None if value is None else value.shape


def _common(paths: list[Tokens]) -> Tokens:
    found = []
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        found.append(words[0])
    return tuple(found)


def _layers(items: list[_Item]) -> list[tuple[int, int, _Layer]]:
    """(first, last, layer) of the numbered layers that are contiguous, in order. What is between a layer's first and last
    operation belongs to it, whatever its name: a cache is written in the middle of attention."""
    numbered: dict[Tokens, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for at, item in enumerate(items):
        place = next((i for i, token in enumerate(item.tokens) if token.isdigit() and i), None)
        if place is not None and not item.foreign:
            numbered[item.tokens[:place]][item.tokens[place]].append(at)
    taken: list[tuple[int, int, _Layer]] = []
    for prefix, numbers in sorted(numbered.items(), key=lambda pair: -sum(map(len, pair[1].values()))):
        spans = [(places[0], places[-1], number) for number, places in numbers.items()]
        if sum(map(len, numbers.values())) < 3 * len(numbers):
            continue  # `linear_0`, `ln_1`: a name with a number, no layer
        every = sorted([(first, last) for first, last, _ in spans] + [(first, last) for first, last, _ in taken])
        if any(one[1] >= two[0] for one, two in itertools.pairwise(every)):
            continue
        for first, last, number in spans:
            inside = [_inner(item, (*prefix, number)) for item in items[first : last + 1]]
            taken.append((first, last, _Layer(prefix, number, inside)))
    return sorted(taken, key=lambda layer: layer[0])


def _inner(item: _Item, path: Tokens) -> _Item:
    if item.tokens[: len(path)] == path:
        return _Item(item.operation, item.tokens[len(path) :], item.foreign)
    return _Item(item.operation, tuple("*" if token == path[-1] else token for token in item.tokens), True)


def _run(signs: list[int], start: int, period: int) -> int:
    """How many signs from `start` on are equal to those a period later."""
    found = 0
    while start + found + period < len(signs) and signs[start + found] == signs[start + found + period]:
        found += 1
    return found


def _repetition(signs: list[int]) -> tuple[int, int, int]:
    """(start, period, times) of what covers most; times is below 2 where nothing repeats."""
    best, covered = (0, 0, 1), 0
    for period in range(3, len(signs) // 2 + 1):
        at = 0
        while at + period < len(signs):
            run = _run(signs, at, period)
            times = run // period + 1
            if times > 1 and times * period > covered and len(set(signs[at : at + period])) > 1:
                best, covered = (at, period, times), times * period
            at += run + 1
    return best


def _fold_alike(children: list[Row | Group], seen: dict[object, str], path: str = "") -> None:
    """A layer that does the same as an earlier one at other sizes becomes a row that says so."""
    for at, child in enumerate(children):
        if isinstance(child, Row):
            continue
        full = "_".join(part for part in (path, child.label) if part)
        if child.signature and child.signature in seen:
            row = Row(child.label, child.operations, "layer", f"as {seen[child.signature]}")
            if child.others:
                row.label, child.children = "", [row]
            else:
                children[at] = row
            continue
        if child.signature:
            seen[child.signature] = full or "those above"
        _fold_alike(child.children, seen, full)


def _coarser(group: Group, ledger: Ledger) -> Group:
    group.children = [*_by_shape(list(rows(group.children)), ledger)]
    return group


def _by_shape(found: list[Row], ledger: Ledger) -> list[Row]:
    """Consecutive rows whose results have the same shape, as one."""
    made: list[Row] = []
    for row in found:
        if (
            made
            and row.kind != "layer"
            and made[-1].kind != "layer"
            and _shape(made[-1], ledger) == _shape(row, ledger)
        ):
            made[-1] = _joined([made[-1], row])
        else:
            made.append(row)
    return made


def _merged(children: list[Row | Group], ledger: Ledger, by: int) -> list[Row | Group]:
    """Rows between groups by their shape, and where that leaves too many, so many of them as one."""
    found: list[Row | Group] = []
    loose: list[Row] = []

    def flush() -> None:
        made = _by_shape(loose, ledger)
        if len(made) > LIMIT // 2:
            step = max(by, math.ceil(len(made) / (LIMIT // 2)))
            made = [_joined(made[at : at + step]) for at in range(0, len(made), step)]
        found.extend(made)
        loose.clear()

    for child in children:
        if isinstance(child, Row):
            loose.append(child)
        else:
            flush()
            found.append(child)
    flush()
    return found


def _joined(several: list[Row]) -> Row:
    operations = [operation for row in several for operation in row.operations]
    kinds = {row.kind for row in several}
    kind = next((kind for kind in ("product", "layer", "norm", "activation") if kind in kinds), several[0].kind)
    return Row(several[0].label, operations, kind)


def _shape(row: Row, ledger: Ledger) -> object:
    outputs = row.operations[-1].outputs
    try:
        return ledger.shape(outputs[0].name) if outputs else None
    except Unknown:
        return None


def _multiply(children: list[Row | Group], times: int) -> None:
    for child in children:
        if isinstance(child, Row):
            child.times = times
        else:
            _multiply(child.children, times * child.times)
