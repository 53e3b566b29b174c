"""A function of a package, compiled once into a list of steps over torch tensors, and played.

A value is freed after its last use. A slice of a state is written in place where nobody can see the difference.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from milbuild.errors import Error
from milbuild.package.reader import Function, Operation, Package
from milbuild.runtime import features, operations
from milbuild.runtime.registry import MOVES, OPERATIONS

__all__ = ["Engine", "State"]

assert operations  # importing it registers every operation


class State:
    """The states of one sequence, all zeros at first; functions of the same package may share it."""

    def __init__(self, package: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.package = package
        self.buffers = {name: torch.zeros(shape) for name, shape in shapes.items()}

    def read_state(self, name: str) -> np.ndarray:
        """A copy of the state `name`, as float32."""
        return self._buffer(name).numpy().copy()

    def write_state(self, name: str, value: np.ndarray) -> None:
        """Replaces the content of the state `name`, which keeps its values in float16."""
        buffer, array = self._buffer(name), torch.as_tensor(np.asarray(value, np.float32))
        if array.shape != buffer.shape:
            raise Error(f"the state {name} has the shape {tuple(buffer.shape)}, got {tuple(array.shape)}")
        self.buffers[name] = array.half().float()

    def _buffer(self, name: str) -> torch.Tensor:
        if name not in self.buffers:
            raise Error(f"there is no state {name}; there are {', '.join(self.buffers)}")
        return self.buffers[name]


class Engine:
    """What `milbuild.runtime.load` returns. `kept`: values of the last prediction by operation name, as float32 arrays."""

    def __init__(self, package: Package, function_name: str | None, precision: str, keep: Sequence[str]) -> None:
        if precision not in ("declared", "float32"):
            raise Error(f"precision is {precision!r}; known are declared, float32")
        self.package = package
        self.function = package.function(function_name)
        self.description = package.description(self.function.name)
        self.rounds = precision == "declared"
        self.keep = tuple(keep)
        self.kept: dict[str, np.ndarray] = {}
        self.states = {
            value.name: value.shape
            for value in self.function.inputs
            if value.name in {f.name for f in self.description.state}
        }
        self._compile()

    def make_state(self) -> State:
        """A new state for one sequence. A function without states gives an empty one, as Core ML does."""
        shapes = {name: tuple(d for d in shape if d is not None) for name, shape in self.states.items()}
        return State(str(self.package.path), shapes)

    def predict(self, data: dict[str, Any], state: State | None = None) -> dict[str, np.ndarray]:
        """Outputs by name; float16 ones as float32 arrays, as coremltools gives them. Raises `Error` for wrong inputs."""
        values: dict[str, Any] = dict(self._constants)
        values.update(features.inputs(self.description.input, data, self.package.path.name))
        buffers = self._buffers(state)
        self.kept = {}
        for step in self._steps:
            self._play(step, values, buffers)
        return features.outputs(self.description.output, values)

    def keep_only(self, names: Iterable[str]) -> None:
        """Keeps the values of other operations from the next prediction on; `*` is a wildcard."""
        self.keep = tuple(names)
        for step in self._steps:
            step.kept = self._keeps(step.op.name)

    def _keeps(self, name: str) -> bool:
        return name in self.keep or any("*" in pattern and fnmatch.fnmatchcase(name, pattern) for pattern in self.keep)

    # Compiling

    def _compile(self) -> None:
        constants: dict[str, Any] = {}
        steps: list[_Step] = []
        for op in self.function.operations:
            if op.type == "const":
                constants[op.outputs[0].name] = _constant(op.attributes["val"])
                continue
            if op.type not in OPERATIONS and op.type not in ("read_state", "write_state"):
                raise Error(
                    f"{self.package.path.name}: operation {op.name} is a {op.type}, which the runtime does not know"
                )
            steps.append(_Step(op, self.rounds, self._keeps(op.name)))
        self._constants, self._steps = constants, steps
        _free_after_last_use(steps, set(self.function.outputs) | set(constants))
        _write_in_place(steps, self.function)

    # Playing

    def _buffers(self, state: State | None) -> dict[str, torch.Tensor]:
        if not self.states:
            return {}
        if state is None:
            raise Error(
                f"{self.package.path.name} keeps {', '.join(self.states)} in a state",
                "Pass predict one of make_state().",
            )
        if not isinstance(state, State):
            raise Error(f"state is a {type(state).__name__}, not what make_state() gives")
        for name, shape in self.states.items():
            if name not in state.buffers or tuple(state.buffers[name].shape) != shape:
                raise Error(f"the state is of another model: it has no {name} of shape {shape}")
        return state.buffers

    def _play(self, step: "_Step", values: dict[str, Any], buffers: dict[str, torch.Tensor]) -> None:
        op = step.op
        if op.type == "read_state":
            result: Any = buffers[step.state]
        elif op.type == "write_state":
            result = values[step.data]
            if result is not buffers[step.state]:
                buffers[step.state] = result.half().float()
        else:
            arguments: dict[str, Any] = dict(step.literals)
            for name, source in step.arguments:
                arguments[name] = (
                    values[source]
                    if isinstance(source, str)
                    else [values[s] if isinstance(s, str) else s for s in source]
                )
            if step.in_place:
                arguments["in_place"] = True
            try:
                result = OPERATIONS[op.type](**arguments)
            except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
                shapes = ", ".join(
                    f"{name} {tuple(value.shape)}"
                    for name, value in arguments.items()
                    if isinstance(value, torch.Tensor)
                )
                raise Error(
                    f"operation {op.name} ({op.type}) of {self.package.path.name} failed on {shapes}: {error}"
                ) from error
        results = result if isinstance(result, tuple | list) else (result,)
        for output, value, rounded in zip(op.outputs, results, step.rounded, strict=op.type != "write_state"):
            values[output.name] = value.half().float() if rounded else value
            if step.kept:
                self.kept[op.name if len(results) == 1 else output.name] = values[output.name].float().numpy().copy()
        for name in step.frees:
            values.pop(name, None)


class _Step:
    """An operation with its arguments sorted: names of values, and constants bound in place."""

    def __init__(self, op: Operation, rounds: bool, kept: bool) -> None:
        self.op, self.kept = op, kept
        self.arguments: list[tuple[str, str | list[Any]]] = []
        self.literals: dict[str, Any] = {}
        self.frees: list[str] = []
        self.in_place = False
        self.state = self.data = ""
        for name, bindings in op.inputs.items():
            sources = [binding if isinstance(binding, str) else _constant(binding) for binding in bindings]
            if op.type in ("read_state", "write_state"):
                setattr(self, "state" if name == "input" else name, sources[0])
            elif name == "values":  # concat and stack are the operations with a list of tensors
                self.arguments.append((name, sources))
            elif isinstance(sources[0], str):
                self.arguments.append((name, sources[0]))
            else:
                self.literals[name] = sources[0]
        self.rounded = [
            rounds and op.type not in MOVES and op.type != "read_state" and output.dtype == "FLOAT16"
            for output in op.outputs
        ]

    def reads(self) -> set[str]:
        names = {name for bindings in self.op.inputs.values() for name in bindings if isinstance(name, str)}
        return names - {self.state}


def _constant(value: np.ndarray) -> Any:
    """A constant as operations take it: a Python number or string, or a tensor (weights are converted once, here)."""
    if value.dtype == object:
        return value.item() if value.ndim == 0 else [str(text) for text in value.tolist()]
    if value.ndim == 0:
        return value.item()
    wide = {"f": np.float32, "i": np.int32, "u": np.int32}.get(value.dtype.kind)
    return torch.from_numpy(np.array(value, wide or value.dtype))


def _free_after_last_use(steps: list[_Step], kept: set[str]) -> None:
    last = {name: index for index, step in enumerate(steps) for name in step.reads()}
    for index, step in enumerate(steps):
        for output in step.op.outputs:
            last.setdefault(output.name, index)
    for name, index in last.items():
        if name not in kept:
            steps[index].frees.append(name)


def _write_in_place(steps: list[_Step], function: Function) -> None:
    """Marks slice updates that may write into the state they read: r = read(s); u = slice_update(r, ...); write(s, u).

    Only where nothing that shares memory with r is read afterwards, and s is not touched before u is written to it.
    """
    touched: dict[str, list[int]] = defaultdict(list)
    last: dict[str, float] = {}
    reader: dict[str, int] = {}
    aliases: dict[str, set[str]] = {}
    for index, step in enumerate(steps):
        for name in step.reads():
            last[name] = index
        if step.state:
            touched[step.state].append(index)
        outputs = [output.name for output in step.op.outputs]
        if step.op.type == "read_state":
            reader[outputs[0]] = index
        if step.op.type in MOVES and "x" in step.op.inputs:
            source = step.op.inputs["x"][0]
            for name in outputs:
                aliases.setdefault(str(source), set()).add(name)
    last.update(dict.fromkeys(function.outputs, float("inf")))

    def shared(name: str) -> set[str]:
        return {name}.union(*(shared(other) for other in aliases.get(name, ())))

    for index, step in enumerate(steps):
        if step.op.type != "slice_update":
            continue
        source, updated = str(step.op.inputs["x"][0]), step.op.outputs[0].name
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
        if all(last.get(name, -1) <= index for name in shared(source) - {updated}):
            step.in_place = True
