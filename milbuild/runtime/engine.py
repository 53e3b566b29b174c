"""A function of a package, compiled once into a list of steps over torch tensors, and run.

Floats are held in float32, whatever narrower type is declared, and rounded to that type operation by operation. A value is
freed after its last use. A slice of a state is written in place where that makes no difference.
"""

import contextlib
import fnmatch
import hashlib
import math
import mmap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch

from milbuild.errors import Error
from milbuild.package.reader import DAMAGED, Block, Operation, Package, Value
from milbuild.runtime import features, operations
from milbuild.runtime.registry import OPERATIONS, Kernel

__all__ = ["Engine", "State"]

assert operations  # importing it registers every operation

STATEFUL = ("read_state", "write_state")
# What multiplies matrices besides `linear`, and how many numbers torch leaves to one thread (at::internal::GRAIN_SIZE).
PRODUCTS = (
    "conv", "conv_transpose", "einsum", "gru", "lstm", "matmul", "rnn", "scaled_dot_product_attention",
)  # fmt: skip
GRAIN = 32768
# Operations with blocks, and how many: the engine runs them itself.
BRANCHES = {"cond": 2, "while_loop": 2}
OPSETS = {f"CoreML{number}": number for number in range(5, 10)}  # iOS15, iOS16, iOS17, iOS18, iOS26

Callback = Callable[[Operation, tuple[Any, ...]], None]


class State:
    """The states of one sequence, all zeros at first; functions of the same package may share it.

    `model` is the digest of the package that it belongs to.
    """

    def __init__(self, model: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.model = model
        try:
            # numpy's zeros take no memory before they are written; torch's are written at once.
            self.buffers = {name: torch.from_numpy(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
        except (MemoryError, ValueError) as error:
            sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise Error(f"there is no memory for the states {sizes}", DAMAGED) from error

    def read_state(self, name: str) -> np.ndarray:
        """A copy of the state `name`, as float32."""
        return self._buffer(name).numpy().copy()

    def write_state(self, name: str, value: np.ndarray) -> None:
        """Replaces the content of the state `name`, which keeps its values in float16."""
        buffer, array = self._buffer(name), torch.as_tensor(np.asarray(value, np.float32))
        if array.shape != buffer.shape:
            raise Error(f"the state {name} has the shape {tuple(buffer.shape)}, got {tuple(array.shape)}")
        self.buffers[name] = _half(array)

    def _buffer(self, name: str) -> torch.Tensor:
        if name not in self.buffers:
            raise Error(f"there is no state {name}; there are {', '.join(self.buffers)}")
        return self.buffers[name]


class Engine:
    """What `milbuild.runtime.load` returns. `kept`: values of the last prediction by operation name, as arrays."""

    def __init__(self, package: Package, function_name: str | None, precision: str, keep: Sequence[str]) -> None:
        if precision not in ("declared", "float32"):
            raise Error(f"precision is {precision!r}; it must be one of declared, float32")
        if function_name is not None and not isinstance(function_name, str):
            raise Error(f"function_name is {function_name!r}; it takes a name")
        self.package = package
        self.where = package.path.name
        self.function = package.function(function_name)
        self.description = package.description(self.function.name)
        self.rounds = precision == "declared"
        self.keep = _names(keep)
        self.kept: dict[str, np.ndarray] = {}
        self.states = {value.name: _whole(value, self.where) for value in self.function.inputs if value.is_state}
        if self.function.opset not in OPSETS:
            raise Error(f"{self.where} has the opset {self.function.opset}; the runtime has {', '.join(OPSETS)}")
        features.check(self.description, self.function, self.where)
        self._body = self._compile(self.function, {value.name for value in self.function.inputs}, {})
        _write_in_place(self._body.steps, self._body.block)
        self._row_by_row = _row_by_row(self._body.steps)

    def make_state(self) -> State:
        """A new state for one sequence. A function without states gives an empty one, as Core ML does."""
        return State(self.package.digest, self.states)

    def predict(
        self, data: dict[str, Any], state: State | None = None, callback: Callback | None = None
    ) -> dict[str, Any]:
        """Outputs by name, as coremltools gives them: float16 as float32 arrays, images as PIL's, dictionaries.

        `callback` is called after every operation with it and with its results, as tensors that must not be written to.
        Raises `Error` for wrong inputs, and for an operation that fails.
        """
        values: dict[str, Any] = dict(self._body.constants)
        values.update(features.inputs(self.description.input, self.function.inputs, data, self.where, self.rounds))
        buffers = self._buffers(state)
        self.kept = {}
        with torch.inference_mode(), _threads(self.threads):
            self._run_steps(self._body.steps, values, buffers, callback)
            return features.outputs(self.description, values)

    @property
    def threads(self) -> int:
        """Those of torch that a prediction runs on: as many as are set, and one where tokens are decoded one by one."""
        return 1 if self._row_by_row else torch.get_num_threads()

    def keep_only(self, names: Iterable[str]) -> None:
        """Keeps the values of other operations from the next prediction on; `*` is a wildcard."""
        self.keep = _names(names)
        for step in _all(self._body.steps):
            step.kept = self._keeps(step.op.name)

    def constants(self) -> Iterator[torch.Tensor]:
        """Every tensor that is kept between predictions."""
        for body in [self._body, *(body for step in _all(self._body.steps) for body in step.bodies)]:
            for value in body.constants.values():
                if isinstance(value, torch.Tensor):
                    yield value
            for step in body.steps:
                yield from (value for value in step.constants.values() if isinstance(value, torch.Tensor))

    def freed_after(self) -> dict[int, list[str]]:
        """id of an operation -> names of the values that are freed after it."""
        return {id(step.op): step.frees for step in _all(self._body.steps)}

    def _keeps(self, name: str) -> bool:
        return name in self.keep or any("*" in pattern and fnmatch.fnmatchcase(name, pattern) for pattern in self.keep)

    # Compiling

    def _compile(self, block: Block, known: set[str], visible: dict[str, Any]) -> "_Body":
        """`known`: the names of all values that the block may read at its beginning; `visible`: the constants among them."""
        steps: list[_Step] = []
        constants: dict[str, Any] = {}
        visible = dict(visible)
        origins: dict[str, Any] = {}  # what the constants of this block are made of
        outer, known = known - {value.name for value in block.inputs}, set(known)
        for op in block.operations:
            made: dict[str, Any] = {}
            if op.type == "const":
                if "val" not in op.attributes or len(op.outputs) != 1:
                    raise Error(f"{self.where}: the constant {op.name} has no value", DAMAGED)
                made[op.outputs[0].name] = self._constant(op.attributes["val"])
                origins[op.outputs[0].name] = _origin(op.attributes["val"])
            else:
                step = self._step(op, known, visible)
                if op.type.startswith("constexpr_") and step.reads <= visible.keys():
                    made.update(self._decoded(step, visible, origins))
                else:
                    steps.append(step)
            constants.update(made)
            visible.update(made)
            for value in op.outputs:
                if value.name in known:
                    raise Error(f"{self.where}: two operations give the value {value.name}", DAMAGED)
                known.add(value.name)
        if missing := sorted(set(block.outputs) - known):
            raise Error(f"{self.where} returns {', '.join(missing)}, which no operation makes", DAMAGED)
        read = set().union(*(step.reads for step in steps))
        _free_after_last_use(steps, block, outer | constants.keys())
        # A weight that was only there to be decoded is not kept beside what it became.
        needed = {name: value for name, value in constants.items() if name in read or name in block.outputs}
        return _Body(block, steps, needed, (read | set(block.outputs)) & outer)

    def _constant(self, value: Any) -> Any:
        """What `_converted` makes of a value; of weights in a file the same for every function and precision."""
        if not isinstance(value, np.ndarray) or value.dtype != np.float16 or not _mapped(value):
            return _converted(value)
        shared = _SHARED.setdefault(self.package, WeakValueDictionary())
        key = _origin(value)
        if (widened := shared.get(key)) is None:
            widened = shared[key] = _converted(value)
        return widened

    def _decoded(self, step: "_Step", visible: dict[str, Any], origins: dict[str, Any]) -> dict[str, Any]:
        """The results of an operation on constants, by name; of the same constants the same for every function."""
        op = step.op
        bound = {**{name: [value] for name, value in op.attributes.items()}, **op.inputs}
        made_of = tuple(
            (name, *(origins.get(each) if isinstance(each, str) else _origin(each) for each in bindings))
            for name, bindings in sorted(bound.items())
        )
        shared = _SHARED.setdefault(self.package, WeakValueDictionary())
        made: dict[str, Any] = {}
        for output in op.outputs:
            key = op.type, self.rounds, output.dtype, output.shape, made_of, len(made)
            # What is made of a constant around this block is not followed there.
            origins[output.name] = None if any(None in each for each in made_of) else key
            made[output.name] = shared.get(key)
        if any(value is None or origins[name] is None for name, value in made.items()):
            values = {name: visible[name] for name in step.reads}
            self._run_steps([step], values, {}, None)
            made = {name: values[name] for name in made}
            shared.update({origins[name]: value for name, value in made.items() if origins[name] is not None})
        return made

    def _step(self, op: Operation, known: set[str], visible: dict[str, Any]) -> "_Step":
        place = f"{self.where}: operation {op.name} ({op.type})"
        if op.type not in OPERATIONS and op.type not in STATEFUL and op.type not in BRANCHES:
            raise Error(f"{self.where}: operation {op.name} is a {op.type}, which the runtime does not know")
        names = {name for bindings in op.inputs.values() for name in bindings if isinstance(name, str)}
        if missing := sorted(names - known):
            raise Error(f"{place} reads {', '.join(missing)}, which nothing before it gives", DAMAGED)
        if len(op.blocks) != BRANCHES.get(op.type, 0):
            raise Error(f"{place} has {len(op.blocks)} blocks", DAMAGED)
        if not op.outputs and op.type != "write_state":
            raise Error(f"{place} has no result", DAMAGED)
        step = _Step(op, OPERATIONS.get(op.type), self.rounds, self._keeps(op.name), place)
        if op.type in STATEFUL:
            if step.state not in self.states or (op.type == "write_state" and not step.data):
                raise Error(
                    f"{place} names the state {step.state or '(none)'}; there are {', '.join(self.states)}", DAMAGED
                )
        elif op.type in BRANCHES:
            step.branch(op, place)
            for block in op.blocks:
                taken = {value.name for value in block.inputs}
                constants = {name: value for name, value in visible.items() if name not in taken}
                body = self._compile(block, known | taken, constants)
                body.shadowed = known & taken
                step.bodies.append(body)
                step.reads |= body.reads
        else:
            step.bind(op, OPSETS[self.function.opset], visible, place)
        return step

    # Running

    def _buffers(self, state: State | None) -> dict[str, torch.Tensor]:
        if not self.states:
            return {}
        if state is None:
            raise Error(
                f"{self.where} keeps {', '.join(self.states)} in a state",
                "Pass predict one of make_state().",
            )
        if not isinstance(state, State):
            raise Error(f"state is a {type(state).__name__}, not what make_state() gives")
        for name, shape in self.states.items():
            if name not in state.buffers or tuple(state.buffers[name].shape) != shape:
                raise Error(f"the state is of another model or function: it has no {name} of shape {shape}")
        if state.model != self.package.digest:
            raise Error(f"the state is of another model than {self.where}", "Pass predict one of its make_state().")
        return state.buffers

    def _run_steps(
        self,
        steps: list["_Step"],
        values: dict[str, Any],
        buffers: dict[str, torch.Tensor],
        callback: Callback | None,
    ) -> None:
        for step in steps:
            results = step.results(values) if step.kernel else self._special(step, values, buffers, callback)
            for output, value in zip(step.outputs, results, strict=True):
                values[output.name] = output.take(value, step.place)
            if step.kept:
                self._keep(step, values)
            if callback:
                callback(step.op, tuple(values[output.name] for output in step.outputs))
            for name in step.frees:
                del values[name]

    def _special(
        self, step: "_Step", values: dict[str, Any], buffers: dict[str, torch.Tensor], callback: Callback | None
    ) -> tuple[Any, ...]:
        """Operations that need more than their arguments: the states, or to run blocks."""
        kind = step.op.type
        if kind == "read_state":
            return (buffers[step.state],)
        if kind == "write_state":
            result = values[step.data]
            if result.shape != buffers[step.state].shape:
                raise Error(f"{step.place} writes {tuple(result.shape)} into {tuple(buffers[step.state].shape)}")
            if result is not buffers[step.state]:
                buffers[step.state] = _half(result) if self.rounds else result.clone()
            return ()
        if kind == "cond":
            chosen = step.bodies[0 if _truth(values[step.data], step.place) else 1]
            return self._inside(chosen, (), values, buffers, callback)
        condition, repeated = step.bodies
        carried = tuple(values[name] for name in step.carried)
        if not condition.steps and not repeated.steps:
            raise Error(f"{step.place} never ends: nothing happens in it", DAMAGED)
        while _truth(self._inside(condition, carried, values, buffers, callback)[0], step.place):
            carried = self._inside(repeated, carried, values, buffers, callback)
        return carried

    def _inside(
        self,
        body: "_Body",
        arguments: tuple[Any, ...],
        values: dict[str, Any],
        buffers: dict[str, torch.Tensor],
        callback: Callback | None,
    ) -> tuple[Any, ...]:
        # coremltools may call the variable of a loop within a loop as that of the outer one.
        outer = {name: values[name] for name in body.shadowed if name in values}
        values.update(body.constants)
        values.update(zip((value.name for value in body.block.inputs), arguments, strict=True))
        self._run_steps(body.steps, values, buffers, callback)
        results = tuple(values[name] for name in body.block.outputs)
        values.update(outer)
        return results

    def _keep(self, step: "_Step", values: dict[str, Any]) -> None:
        for output in step.outputs:
            value = values[output.name]
            if isinstance(value, torch.Tensor):
                name = step.op.name if len(step.outputs) == 1 else output.name
                self.kept[name] = value.float().numpy().copy()


@dataclass
class _Body:
    """A compiled block. `reads`: what it reads from outside; `shadowed`: names from outside that its inputs have, too."""

    block: Block
    steps: list["_Step"]
    constants: dict[str, Any]
    reads: set[str]
    shadowed: set[str] = field(default_factory=set)


class _Output:
    """What the program declares about a result: its type, to which it is rounded, and as much of its shape as is known."""

    def __init__(self, value: Value, rounds: bool) -> None:
        self.name = value.name
        self.rounded = _ROUNDED.get(value.dtype) if rounds else None
        self.shape = value.shape

    def take(self, value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor):
            if value.shape != self.shape:
                self._check(value, place)
            if self.rounded is not None:
                return self.rounded(value)
        return value

    def _check(self, value: torch.Tensor, place: str) -> None:
        if self.shape is not None and not _fits(tuple(value.shape), self.shape):
            wanted = ", ".join("?" if d is None else str(d) for d in self.shape)
            raise Error(f"{place} gave {self.name} the shape {tuple(value.shape)}; the program declares ({wanted})")


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    """Whether a result has the shape that the program declares.

    An extent that the program does not know does not promise an axis: coremltools declares a squeeze as if no such extent were
    1, and everything after it, too. So its axis may be missing; sizes that are known are there, in their order.
    """
    if len(shape) == len(declared):
        return all(wanted in (None, n) for n, wanted in zip(shape, declared, strict=True))
    if declared and not any(wanted is not None for wanted in declared):
        return True
    if len(shape) > len(declared):
        return False
    first, rest = declared[0], declared[1:]
    if first is None and _fits(shape, rest):
        return True
    return bool(shape) and first in (None, shape[0]) and _fits(shape[1:], rest)


class _Step:
    """An operation with its arguments sorted: constants bound in place, and names of values to look up."""

    def __init__(self, op: Operation, kernel: Kernel | None, rounds: bool, kept: bool, place: str) -> None:
        self.op, self.kernel, self.kept, self.place = op, kernel, kept, place
        rounds = rounds and not (kernel and kernel.moves) and op.type not in BRANCHES and op.type != "read_state"
        self.outputs = [_Output(value, rounds) for value in op.outputs]
        self.frees: list[str] = []
        self.reads = {name for bindings in op.inputs.values() for name in bindings if isinstance(name, str)}
        self.constants: dict[str, Any] = {}
        self.variables: list[
            tuple[str, Any, Any]
        ] = []  # parameter; its name, or a list of names and tensors; conversion
        self.bodies: list[_Body] = []
        self.carried: list[str] = []
        self.state = self.data = ""
        if op.type in STATEFUL:
            self.state, self.data = (str((op.inputs.get(name) or [""])[0]) for name in ("input", "data"))
            self.reads.discard(self.state)

    def branch(self, op: Operation, place: str) -> None:
        name = "pred" if op.type == "cond" else "loop_vars"
        bindings = op.inputs.get(name, [])
        if not bindings or not all(isinstance(binding, str) for binding in bindings):
            raise Error(f"{place} has no {name}", DAMAGED)
        self.data, self.carried = bindings[0], bindings if op.type == "while_loop" else []
        taken = [len(block.inputs) for block in op.blocks]
        given = [len(block.outputs) for block in op.blocks]
        results = len(op.outputs)
        right = (
            taken == [0, 0] and given == [results] * 2
            if op.type == "cond"
            else taken == [len(bindings)] * 2 and given == [1, len(bindings)] and results == len(bindings)
        )
        if not right:
            raise Error(f"{place} has blocks with {taken} inputs and {given} outputs", DAMAGED)

    def bind(self, op: Operation, opset: int, visible: dict[str, Any], place: str) -> None:
        """Sorts the arguments by the operation's parameters. Constants are converted here, once."""
        assert self.kernel is not None
        # Until iOS16 the operations of compressed weights hold their arguments as attributes.
        bound: dict[str, list[Any]] = {**{key: [value] for key, value in op.attributes.items()}, **op.inputs}
        if unknown := sorted(bound.keys() - self.kernel.parameters.keys()):
            raise Error(f"{place} has no parameter {', '.join(unknown)}; it has {', '.join(self.kernel.parameters)}")
        for name, parameter in self.kernel.parameters.items():
            bindings = bound.get(name, [])
            if not bindings:
                if not parameter.optional:
                    raise Error(f"{place} lacks its parameter {name}", DAMAGED)
                continue
            if len(bindings) > 1 and not parameter.several:
                raise Error(f"{place} has {len(bindings)} values for its parameter {name}", DAMAGED)
            sources = [
                _converted(binding) if not isinstance(binding, str) else visible.get(binding, _Name(binding))
                for binding in bindings
            ]
            if parameter.several:
                self.variables.append((parameter.name, sources, None))
            elif isinstance(sources[0], _Name):
                self.variables.append((parameter.name, sources[0], parameter.convert))
            else:
                try:
                    converted = parameter.convert(sources[0]) if parameter.convert else sources[0]
                except (TypeError, ValueError, OverflowError) as error:
                    raise Error(f"{place}: {name}: {error}", DAMAGED) from error
                self.constants[parameter.name] = converted
        extras = {"opset": opset, "results": op.outputs, "in_place": False}
        self.constants.update((name, extras[name]) for name in self.kernel.extras)

    def results(self, values: dict[str, Any]) -> tuple[Any, ...]:
        assert self.kernel is not None
        arguments = self.constants.copy()
        try:
            for name, source, convert in self.variables:
                if type(source) is list:
                    arguments[name] = [values[one] if type(one) is _Name else one for one in source]
                else:
                    arguments[name] = values[source] if convert is None else convert(values[source])
            result = self.kernel.function(**arguments)
        except Exception as error:
            raise self._failure(arguments, error) from error
        results = result if type(result) is tuple else (result,)
        if len(results) != len(self.outputs):
            raise Error(f"{self.place} has {len(results)} results; the program declares {len(self.outputs)}", DAMAGED)
        return results

    def _failure(self, arguments: dict[str, Any], error: Exception) -> Error:
        shapes = ", ".join(
            f"{name} {tuple(value.shape)}" for name, value in arguments.items() if isinstance(value, torch.Tensor)
        )
        text = str(error).split("\n")[0] or type(error).__name__
        return Error(f"{self.place} failed on {shapes}: {text}")


class _Name(str):
    """The name of a value that is known at the call only; a constant may be a string itself."""


def _half(value: torch.Tensor) -> torch.Tensor:
    return value.half().float()


_ROUNDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "FLOAT16": _half,
    "BFLOAT16": lambda value: value.bfloat16().float(),
}


# What was made of a package's weights, by what it was made of, for as long as a function uses it.
_SHARED: WeakKeyDictionary[Package, WeakValueDictionary[Any, torch.Tensor]] = WeakKeyDictionary()


def _converted(value: Any) -> Any:
    """A constant as operations take it: a tensor, a string or a list. Weights are converted once, here."""
    if isinstance(value, list):
        return [_converted(entry) for entry in value]
    if value.dtype == object:
        return str(value.item()) if value.ndim == 0 else [str(text) for text in value.reshape(-1).tolist()]
    if value.dtype in (np.float32, np.int32, np.bool_):
        return torch.from_numpy(value)
    if value.dtype == np.float16:
        return torch.from_numpy(value).float()
    if value.dtype.kind in "iu":
        wide = np.int64 if value.dtype.itemsize > 4 or value.dtype == np.uint32 else np.int32
        return torch.from_numpy(value.astype(wide))
    return torch.from_numpy(value.astype(np.float32))


def _origin(value: Any) -> Any:
    """What tells the constants of a package apart: where it is in the mapped file, or its content."""
    if isinstance(value, list):
        return tuple(map(_origin, value))
    if value.dtype == object:
        return value.shape, tuple(value.reshape(-1).tolist())
    content = value.__array_interface__["data"][0] if _mapped(value) else hashlib.sha256(value.tobytes()).digest()
    return value.dtype.str, value.shape, content


def _mapped(value: Any) -> bool:
    """Whether an array lies in a mapped file, whose addresses belong to nothing else while the package is there."""
    while isinstance(value, np.ndarray):
        value = value.base
    return isinstance(value, mmap.mmap)


def _truth(value: Any, place: str) -> bool:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise Error(f"{place} chooses by one bool, got {type(value).__name__} {tuple(getattr(value, 'shape', ()))}")
    return bool(value)


def _whole(value: Value, where: str) -> tuple[int, ...]:
    shape = tuple(d for d in value.shape or () if d is not None)
    if value.shape is None or len(shape) != len(value.shape):
        raise Error(f"{where}: the state {value.name} has no fixed shape", DAMAGED)
    return shape


def _names(names: Iterable[str]) -> tuple[str, ...]:
    kept = (names,) if isinstance(names, str) else tuple(names or ())
    if not all(isinstance(name, str) for name in kept):
        raise Error(f"keep is {names!r}; it takes names of operations")
    return kept


def _all(steps: list[_Step]) -> Iterator[_Step]:
    for step in steps:
        yield step
        for body in step.bodies:
            yield from _all(body.steps)


def _row_by_row(steps: list[_Step]) -> bool:
    """Whether weights are multiplied with one row at a time, as where one token is decoded, and nothing else is large.

    torch has one thread for such a product, which waits for memory. The others would only be woken for the small operations
    between, and turn idly until the next: with two threads, GPT-2 took twice the processor's time, and no less of ours.
    """
    found = False
    for step in _all(steps):
        if step.op.type == "linear" or step.op.type in PRODUCTS:
            shape = step.outputs[0].shape or (None,)
            sizes = [d for d in shape if d is not None]
            rows = step.op.type == "linear"
            if len(sizes) < len(shape) or (math.prod(sizes[:-1]) > 1 if rows else math.prod(sizes) > GRAIN):
                return False
            found = found or rows
    return found


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free_after_last_use(steps: list[_Step], block: Block, around: set[str]) -> None:
    """Only what the block makes itself: values from outside may be read again, and a loop reads its inputs each time."""
    last = {name: index for index, step in enumerate(steps) for name in step.reads}
    for index, step in enumerate(steps):
        for output in step.outputs:
            last.setdefault(output.name, index)
    for name, index in last.items():
        if name not in around and name not in block.outputs:
            steps[index].frees.append(name)


def _write_in_place(
    steps: list[_Step], block: Block, outside: frozenset[str] = frozenset(), repeated: bool = False
) -> None:
    """Marks slice updates that may write into the state they read: r = read(s); u = slice_update(r, ...); write(s, u).

    Only where s is not touched between, and nothing else that shares memory with s is read afterwards: no other read of
    it, no view of one, no result of a block that touches s, nothing of the blocks around (`outside`: their states)
    and, in a loop, nothing of the round before.
    """
    touched: dict[str, list[int]] = defaultdict(list)
    last: dict[str, float] = {}
    reader: dict[str, int] = {}
    holders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    aliases: dict[str, set[str]] = {}
    for index, step in enumerate(steps):
        for name in step.reads:
            last[name] = index
        outputs = [output.name for output in step.outputs]
        for state in {inner.state for inner in _all([step])} - {""}:
            touched[state].append(index)
            holders[state] += [(index, name) for name in outputs]
        if step.op.type == "read_state":
            reader[outputs[0]] = index
        if step.bodies or (step.kernel and step.kernel.moves):
            for source in step.reads:
                aliases.setdefault(source, set()).update(outputs)
    last.update(dict.fromkeys(block.outputs, float("inf")))

    def shared(names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        new = set(names)
        while new:
            found |= new
            new = set().union(*(aliases.get(one, set()) for one in new)) - found
        return found

    def held(state: str, index: int, besides: str = "") -> bool:
        """Is a value that shares memory with the state read from this step on?"""
        names = shared(name for at, name in holders[state] if at < index) - {besides}
        return any(last.get(name, -1) >= index for name in names)

    if repeated:
        outside |= {state for state, made in holders.items() if shared(name for _, name in made) & set(block.outputs)}
    for index, step in enumerate(steps):
        if step.bodies:
            loop = step.op.type == "while_loop"
            states = {inner.state for inner in _all([step])} - {""}
            inside = outside | {state for state in states if held(state, index)}
            for body in step.bodies[1:] if loop else step.bodies:
                _write_in_place(body.steps, body.block, inside, loop)
        if step.op.type != "slice_update":
            continue
        source, updated = str(step.op.inputs["x"][0]), step.outputs[0].name
        if source not in reader:
            continue
        state = steps[reader[source]].state
        then = next((i for i in touched[state] if i > index), None)
        before = max(i for i in touched[state] if i < index)
        if (
            then is None
            or before != reader[source]
            or steps[then].op.type != "write_state"
            or steps[then].data != updated
        ):
            continue
        if state not in outside and not held(state, index + 1, besides=updated):
            step.constants["in_place"] = True
