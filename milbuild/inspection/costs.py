"""What a call of a function costs, as far as the program says it: multiply-accumulates, and bytes moved.

Multiply-accumulates are those of linear, matmul, einsum, conv, conv_transpose, scaled_dot_product_attention (both products)
and lstm, gru, rnn. One is a multiplication and an addition, so FLOPs are twice as many. Norms, softmax, activations and
other elementwise operations are not counted. Of a `cond` the more expensive branch counts, of a `while_loop` one iteration.

Bytes moved are the least that a call has to move: weights that it reads, as they are stored; states and what is written
into them; inputs and outputs. Values between operations are not counted: they may stay in a cache or never be written.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milbuild.package.graph import COMPRESSED, Constant, Graph
from milbuild.package.reader import Operation
from milbuild.package.storage import BITS, DTYPES, size

Shape = tuple[int, ...]
# Operations that read no more of a tensor `x` than they return: a table is not read in full.
SELECTING = {"gather", "gather_along_axis", "gather_nd", "slice_by_index", "slice_by_size"}
SMALL = 10  # elements; coremltools keeps constants of fewer in the program: axes, strides, epsilons


class Unknown(Exception):
    """A length that is known only at the call."""


@dataclass(frozen=True)
class Costs:
    """Of one call. `macs`: multiply-accumulates by operation type; all else is bytes.

    `states_read`: the whole allocated states that the function reads, which is what the Neural Engine moves; `states_written`
    what its updates write, a whole state where it is not updated in part.
    """

    macs: dict[str, int]
    weights: int
    states_read: int
    states_written: int
    inputs: int
    outputs: int

    @property
    def bytes(self) -> int:
        return self.weights + self.states_read + self.states_written + self.inputs + self.outputs


@dataclass
class Weight:
    """A tensor that operations read: `stored` maps what it is made of (several parts, if it is compressed) to bytes.

    `type` and `shape` are those of the tensor after decoding; `compression` is "none" for one that is stored as it is.
    """

    name: str
    type: str
    shape: Shape
    compression: str
    stored: dict[Any, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.stored.values())

    @property
    def key(self) -> frozenset[Any]:
        """The same for two functions that share it."""
        return frozenset(self.stored)


class Ledger:
    """A function with the shapes of a call: what is asked for its costs.

    `measured`: shapes by value name where the program leaves them open (`shapes.run_for_shapes`).
    """

    def __init__(self, graph: Graph, measured: dict[str, Shape] | None = None) -> None:
        self.graph, self.measured = graph, measured or {}
        self._weights: dict[int, Weight | None] = {}

    # Shapes

    def shape(self, entry: str | Constant) -> Shape:
        value = self.graph.type_of(entry)
        shape = self.measured.get(entry) if isinstance(entry, str) else None
        shape = shape if shape is not None or value is None else value.shape  # type: ignore[assignment]
        if shape is None or None in shape:
            raise Unknown(entry if isinstance(entry, str) else "")
        return shape

    def of(self, operation: Operation, parameter: str) -> Shape:
        entries = operation.inputs.get(parameter, [])
        if not entries:
            raise Unknown(parameter)
        return self.shape(entries[0])

    def result(self, operation: Operation) -> Shape:
        return self.shape(operation.outputs[0].name)

    def bytes_of(self, name: str) -> int:
        value = self.graph.values.get(name)
        if value is None or value.dtype not in DTYPES or value.dtype == "STRING":
            return 0  # a label, a dictionary of probabilities
        return size(value.dtype, math.prod(self.shape(name)))

    # Multiply-accumulates

    def macs(self, operations: Iterable[Operation]) -> dict[str, int]:
        """By operation type, those of blocks included. Raises `Unknown`."""
        found: dict[str, int] = {}
        for operation in operations:
            if operation.blocks:
                each = [self.macs(inner.operations) for inner in operation.blocks]
                if operation.type == "cond":
                    each = [max(each, key=lambda macs: sum(macs.values()))]
                for macs in each:
                    for kind, count in macs.items():
                        found[kind] = found.get(kind, 0) + count
            elif operation.type in MULTIPLYING:
                found[operation.type] = found.get(operation.type, 0) + MULTIPLYING[operation.type](self, operation)
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    # Weights

    def weight(self, entry: str | Constant) -> Weight | None:
        """The weight that is bound to a parameter; None for a value, or a small constant of the program itself."""
        maker = None if isinstance(entry, Constant) else self.graph.makers.get(entry)
        key = id(entry) if maker is None else id(maker)
        if key not in self._weights:
            self._weights[key] = self._constant(entry) if maker is None or maker.type == "const" else None
            if maker is not None and maker.type.startswith(COMPRESSED):
                self._weights[key] = self._compressed(maker)
        return self._weights[key]

    def _constant(self, entry: str | Constant) -> Weight | None:
        constant = self.graph.constant_of(entry)
        if constant is None or constant.dtype not in DTYPES or constant.dtype == "STRING":
            return None
        if constant.place is None and constant.count < SMALL:
            return None
        name = entry if isinstance(entry, str) else ""
        return Weight(name, constant.dtype.lower(), constant.shape, "none", dict([_stored(constant)]))

    def _compressed(self, maker: Operation) -> Weight:
        value = maker.outputs[-1]  # of several outputs the data, which come after the mask
        shape = tuple(d or 0 for d in value.shape or ())
        return Weight(
            maker.name, value.dtype.lower(), shape, " + ".join(self._methods(maker)), dict(self._parts(maker))
        )

    def _parts(self, maker: Operation) -> Iterator[tuple[Any, int]]:
        for entry in self.graph.entries(maker):
            inner = None if isinstance(entry, Constant) else self.graph.makers.get(entry)
            constant = self.graph.constant_of(entry)
            if constant is not None and constant.dtype != "STRING":
                yield _stored(constant)
            elif inner is not None and inner.type.startswith(COMPRESSED):
                yield from self._parts(inner)
        # Until iOS16 these operations hold their arguments as attributes.
        for held in maker.attributes.values():
            if isinstance(held, np.ndarray) and held.dtype != object:
                yield ("array", held.__array_interface__["data"][0]), held.nbytes

    def _methods(self, maker: Operation) -> list[str]:
        """Innermost first: ["sparse", "palettized, 4 bits"]."""
        inner = [self.graph.makers.get(entry) for entry in self.graph.entries(maker) if isinstance(entry, str)]
        before = [
            word for one in inner if one is not None and one.type.startswith(COMPRESSED) for word in self._methods(one)
        ]
        own = _METHODS.get(maker.type, lambda *_: maker.type.removeprefix(COMPRESSED))(self, maker)
        return [*dict.fromkeys([*before, own])]

    def argument(self, maker: Operation, parameter: str) -> tuple[str, Shape]:
        """Type and shape of a constant argument, an attribute of an older operation too."""
        held = maker.attributes.get(parameter)
        if isinstance(held, np.ndarray):
            return str(held.dtype), held.shape
        value = self.graph.value(maker, parameter)
        return ("", ()) if value is None else (value.dtype.lower(), tuple(d or 0 for d in value.shape or ()))

    def weights(self) -> dict[frozenset[Any], Weight]:
        """Every weight that an operation of the function reads, each once."""
        found = [self.weight(entry) for operation in self.graph.work for entry in self.graph.entries(operation)]
        return {weight.key: weight for weight in found if weight is not None}

    def stored(self, *operations: Operation) -> int:
        """The bytes of the weights that operations read from, in full, each once; those of their blocks too."""
        parts: dict[Any, int] = {}
        for operation in flat(operations):
            for entry in self.graph.entries(operation):
                weight = self.weight(entry)
                parts.update({} if weight is None else weight.stored)
        return sum(parts.values())

    def weights_read(self) -> int:
        """Bytes: in full, but of a weight that is only selected from as much as is selected."""
        read: dict[Any, float] = {}
        whole: dict[Any, int] = {}
        for operation in self.graph.work:
            for parameter, entries in operation.inputs.items():
                for entry in entries:
                    weight = self.weight(entry)
                    if weight is None:
                        continue
                    share = 1.0
                    if operation.type in SELECTING and parameter == "x":
                        share = math.prod(self.result(operation)) / max(1, math.prod(weight.shape))
                    for part, count in weight.stored.items():
                        read[part] = read.get(part, 0.0) + share * count
                        whole[part] = count
        return sum(min(whole[part], round(count)) for part, count in read.items())

    # States, and all together

    def states(self) -> tuple[int, int]:
        """Bytes that are read and written."""
        reads = {entry for op in self.graph.of("read_state") for entry in op.inputs.get("input", [])}
        read = sum(self.bytes_of(value.name) for value in self.graph.function.inputs if value.name in reads)
        written = 0
        for operation in self.graph.of("write_state"):
            maker = self.graph.maker(operation, "data")
            part = maker.inputs.get("update") if maker is not None and maker.type == "slice_update" else None
            entry = (part or operation.inputs.get("data") or [""])[0]
            value = self.graph.type_of(entry)
            if value is not None and value.dtype in DTYPES:
                written += size(value.dtype, math.prod(self.shape(entry)))
        return read, written

    def costs(self) -> Costs:
        """Raises `Unknown` where a length is open."""
        function = self.graph.function
        return Costs(
            self.macs(function.operations),
            self.weights_read(),
            *self.states(),
            sum(self.bytes_of(value.name) for value in function.inputs if not value.is_state),
            sum(self.bytes_of(name) for name in dict.fromkeys(function.outputs)),
        )


def flat(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Operations with those of their blocks."""
    for operation in operations:
        yield operation
        for block in operation.blocks:
            yield from flat(block.operations)


def _stored(constant: Constant) -> tuple[Any, int]:
    key = id(constant) if constant.place is None else (*constant.place, constant.dtype)
    return key, size(constant.dtype, constant.count)


# Multiply-accumulates of each type of operation


def _linear(ledger: Ledger, operation: Operation) -> int:
    return math.prod(ledger.result(operation)) * ledger.of(operation, "weight")[-1]


def _matmul(ledger: Ledger, operation: Operation) -> int:
    x = ledger.of(operation, "x")
    transposed = ledger.graph.constant(operation, "transpose_x")
    inner = x[-2] if len(x) > 1 and transposed is not None and transposed.number() else x[-1]
    return math.prod(ledger.result(operation)) * inner


def _einsum(ledger: Ledger, operation: Operation) -> int:
    """The product of all lengths that the equation names."""
    equation = ledger.graph.constant(operation, "equation")
    text = (equation.word() if equation is not None else None) or ""
    lengths: dict[str, int] = {}
    shapes = [ledger.shape(entry) for entry in operation.inputs.get("values", [])]
    for letters, shape in zip(text.partition("->")[0].replace(" ", "").split(","), shapes, strict=False):
        for letter, length in zip(letters, shape, strict=False):
            lengths[letter] = max(lengths.get(letter, 1), length)
    return math.prod(lengths.values())


def _conv(ledger: Ledger, operation: Operation) -> int:
    """Each element of the result reads (C_in / groups, *kernel), which is what the weight holds for a channel."""
    return math.prod(ledger.result(operation)) * math.prod(ledger.of(operation, "weight")[1:])


def _conv_transpose(ledger: Ledger, operation: Operation) -> int:
    """Each element of the input goes into (C_out / groups, *kernel)."""
    return math.prod(ledger.of(operation, "x")) * math.prod(ledger.of(operation, "weight")[1:])


def _attention(ledger: Ledger, operation: Operation) -> int:
    """(*, L, E) by (*, S, E), and the scores (*, L, S) by (*, S, V)."""
    *batch, queries, width = ledger.of(operation, "query")
    value = ledger.of(operation, "value")
    return math.prod(batch) * queries * value[-2] * (width + value[-1])


def _recurrent(ledger: Ledger, operation: Operation) -> int:
    """Every step and sequence is multiplied by all of the matrices. x: (steps, B, width)."""
    steps, batch, *_ = ledger.of(operation, "x")
    names = [name for name in operation.inputs if name.startswith("weight_")]
    return steps * batch * sum(math.prod(ledger.of(operation, name)) for name in names)


MULTIPLYING = {
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
}


# What a compressed weight is


def _granularity(shape: Shape, blocks: Shape) -> str:
    """How many elements share a scale: of all, of a channel, of a block."""
    if math.prod(blocks) == 1:
        return "per tensor"
    if len(blocks) != len(shape):
        return "per channel"  # one for each of an axis
    lengths = [n // count for n, count in zip(shape, blocks, strict=True) if 1 < count < n]
    if not lengths:
        return "per channel"
    return f"per block of {' x '.join(map(str, lengths))}"


def _shifted(ledger: Ledger, maker: Operation) -> str:
    data = next(
        name for name in ("quantized_data", "data", "nonzero_data") if name in {**maker.attributes, **maker.inputs}
    )
    dtype, shape = ledger.argument(maker, data)
    if data == "nonzero_data":
        shape = ledger.argument(maker, "data_mask")[1]
    return f"{dtype}, {_granularity(shape, ledger.argument(maker, 'scale')[1])}"


def _palette(ledger: Ledger, maker: Operation) -> str:
    """Until iOS17 `lut` is one table; then it is (*blocks, palettes, length of a vector)."""
    lut = ledger.argument(maker, "lut")[1]
    kind = ledger.argument(maker, "indices" if "indices" in maker.inputs else "indices_nonzero_data")[0]
    bits = BITS.get(kind.upper()) if len(lut) > 1 else None
    found = f"palettized, {bits or ((lut or (2,))[-2 if len(lut) > 1 else 0] - 1).bit_length()} bits"
    return found + (f", {math.prod(lut[:-2])} palettes" if math.prod(lut[:-2]) > 1 else "")


_METHODS: dict[str, Any] = {
    "constexpr_affine_dequantize": _shifted,
    "constexpr_blockwise_shift_scale": _shifted,
    "constexpr_sparse_blockwise_shift_scale": _shifted,
    "constexpr_lut_to_dense": _palette,
    "constexpr_lut_to_sparse": _palette,
    "constexpr_sparse_to_dense": lambda *_: "sparse",
    "constexpr_cast": lambda ledger, maker: f"stored as {ledger.argument(maker, 'source_val')[0]}",
}
