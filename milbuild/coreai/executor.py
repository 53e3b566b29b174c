"""Apple's executor of Core AI assets, in a process of its own: `python -m milbuild.coreai.executor ASSET` is that process.

It runs on the CPU, on Linux as on macOS. Some valid programs end its process by a trap instead of an exception: then it is an
`Error` here, not the end of ours. It checks shapes, types and names strictly; a state is zeros when it is made, which Core AI
does not promise.

Messages are a line of JSON, then the bytes of its arrays.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from milbuild.errors import Error


class Executor:
    """An asset's functions by name (`functions`), ready to run. Raises `Error` for an asset that does not load."""

    def __init__(self, asset: str | os.PathLike[str]) -> None:
        self.path = Path(asset)
        if not (self.path / "main.mlirb").is_file():
            raise Error(
                f"{self.path} is no Core AI asset: it has no main.mlirb", "milbuild translate makes one of a package."
            )
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "milbuild.coreai.executor", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        self._end = weakref.finalize(self, _ended, self._process, self._said)
        self.functions = {
            name: Function(self, name, described) for name, described in self._answer()[0]["functions"].items()
        }

    def close(self) -> None:
        """Ends the process."""
        self._end()

    def call(self, request: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # what ended it, `_answer` says
            _send(process.stdin, request, arrays)
        return self._answer()[1]

    def _answer(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        assert self._process.stdout is not None
        found = _receive(self._process.stdout)
        if found is None:
            code = self._process.wait()
            self._said.seek(0)
            last = self._said.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise Error(
                f"Core AI's runtime ended {how} on {self.path.name}{''.join(f': {text[:300]}' for text in last)}"
            )
        if "error" in found[0]:
            raise Error(f"Core AI's runtime refuses {self.path.name}: {found[0]['error']}")
        return found


class Function:
    """An entry point. `inputs`, `outputs`, `states`: (type, shape) by name; -1 is a length that is known only at the call."""

    def __init__(self, executor: Executor, name: str, described: dict[str, Any]) -> None:
        self.executor, self.name = executor, name
        self.inputs, self.outputs, self.states = (
            {key: (kind, tuple(shape)) for key, (kind, shape) in described[side].items()}
            for side in ("inputs", "outputs", "states")
        )

    def predict(self, data: Mapping[str, Any], state: "State | None" = None) -> dict[str, np.ndarray]:
        """Outputs by name; float16 comes as float32, as from coremltools. Arrays are brought into the declared types."""
        if missing := sorted(self.inputs.keys() - data.keys()):
            raise Error(f"the input {', '.join(missing)} is missing")
        if unknown := sorted(data.keys() - self.inputs.keys()):
            raise Error(f"there is no input {', '.join(unknown)}; there are {', '.join(self.inputs)}")
        if self.states and state is None:
            raise Error(f"{self.name} has a state", "Pass predict one of make_state().")
        arrays = {name: np.ascontiguousarray(data[name], kind) for name, (kind, _) in self.inputs.items()}
        number = None if state is None else state.number
        found = self.executor.call({"function": self.name, "state": number}, arrays)
        return {name: each.astype(np.float32) if each.dtype == np.float16 else each for name, each in found.items()}

    def make_state(self) -> "State":
        """A new state, zeros everywhere; functions of one asset share it."""
        return State(self.executor, self.states)


class State:
    """Keys and values between calls, held by the executor's process."""

    _next = 0

    def __init__(self, executor: Executor, states: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self.number, State._next = State._next, State._next + 1
        executor.call({"make": self.number, "states": {name: list(each) for name, each in states.items()}}, {})


def _ended(process: "subprocess.Popen[bytes]", said: BinaryIO) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, said):
        if pipe is not None:
            pipe.close()


def _send(file: Any, head: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    told = {name: [each.dtype.str, list(each.shape)] for name, each in arrays.items()}
    file.write(json.dumps(head | {"arrays": told}).encode() + b"\n")
    for each in arrays.values():
        file.write(np.ascontiguousarray(each).tobytes())
    file.flush()


def _receive(file: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """None at the end of the file."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    head, arrays = json.loads(line), {}
    for name, (kind, shape) in head.pop("arrays").items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        data = file.read(size)
        if len(data) != size:
            return None
        arrays[name] = np.frombuffer(data, kind).reshape(shape)
    return head, arrays


# The process


async def _serve(path: str, requests: Any, answers: Any) -> None:
    from coreai.authoring import AIModelAsset
    from coreai.runtime import NDArray

    async with AIModelAsset.load(path).executable() as model:
        functions = {name: model.load_function(name) for name in model.function_names}
        _send(answers, {"functions": {name: _described(each.desc) for name, each in functions.items()}}, {})
        states: dict[int, dict[str, Any]] = {}
        while (request := _receive(requests)) is not None:
            head, arrays = request
            try:
                if "make" in head:
                    states[head["make"]] = {
                        name: NDArray(np.zeros(shape, kind)) for name, (kind, shape) in head["states"].items()
                    }
                    _send(answers, {}, {})
                    continue
                function = functions[head["function"]]
                given = {name: NDArray(each.copy()) for name, each in arrays.items()}
                held = {} if head["state"] is None else {"state": states[head["state"]]}
                found = await function(given, **held)
                _send(answers, {}, {name: found[name].numpy() for name in function.desc.output_names})
            except Exception as error:  # noqa: BLE001 -- whatever Apple's runtime raises is an answer
                _send(answers, {"error": " ".join(str(error).split())[:500]}, {})


def _described(description: Any) -> dict[str, Any]:
    return {
        "inputs": {name: _typed(description.input_descriptor(name)) for name in description.input_names},
        "outputs": {name: _typed(description.output_descriptor(name)) for name in description.output_names},
        "states": {name: _typed(description.state_descriptor(name)) for name in description.state_names},
    }


def _typed(descriptor: Any) -> tuple[str, list[int]]:
    return str(descriptor.dtype), list(descriptor.shape)


def main() -> None:
    # Whatever Apple's runtime prints goes where errors go; the answers have the standard output to themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        asyncio.run(_serve(sys.argv[1], sys.stdin.buffer, answers))
    except Exception as error:  # noqa: BLE001 -- of an asset that does not load
        _send(answers, {"error": " ".join(str(error).split())[:500]}, {})


if __name__ == "__main__":
    main()
