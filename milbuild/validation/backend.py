"""A package on one backend: its functions, loaded once, and what may observe their operations."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from milbuild import runtime
from milbuild.generation.session import Session
from milbuild.io import cleanup
from milbuild.model import Model
from milbuild.package.reader import Operation, Package, color_name

RUNTIME = ("float32", "declared")
CORE_ML = "Core ML"
CORE_AI = "Core AI"
# Core ML chooses for itself with "all": each of these says what one unit makes of a package.
UNITS = ("cpu_only", "cpu_and_gpu", "cpu_and_ne")

# Called after every operation with the operation and its results, as tensors
Note = Callable[[Operation, tuple[Any, ...]], None]


class Backend:
    """`name` is "float32" or "declared" (how the runtime rounds), "Core ML" followed by the compute units, or "Core AI"."""

    def __init__(self, package: Path, encoder: Path | None, name: str) -> None:
        self.package, self.name = package, name
        units = name.removeprefix(CORE_ML).strip() if name.startswith(CORE_ML) else ct.ComputeUnit.ALL
        self.model = Model(package, compute_units=units)
        self.encoder = None if encoder is None else Model(encoder, compute_units=units)
        self.note: Note | None = None
        self._loaded: dict[tuple[str, str | None], _Loaded] = {}
        self._assets: dict[str, Any] = {}

    def loaded(self, model: Model | None = None) -> "_Loaded":
        """A function of the package, ready to predict; the default one without `model`."""
        model = model or self.model
        key = (model.package_path, model.function_name)
        if key not in self._loaded:
            self._loaded[key] = _Loaded(self._function(model), self)
        return self._loaded[key]

    def _function(self, model: Model) -> Any:
        if self.name.startswith(CORE_ML):
            return model.core_ml()
        if self.name == CORE_AI:
            if model.package_path not in self._assets:
                self._assets[model.package_path] = _asset(model)
            return _CoreAI(model, self._assets[model.package_path])
        return runtime.load(model.package_path, model.function_name, self.name)

    def predict(self, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name; of a classifier the probabilities in the order of its labels, without the label."""
        outputs = self.loaded().predict(data)
        return {
            name: np.array([list(value.values())], np.float32) if isinstance(value, dict) else value
            for name, value in outputs.items()
            if not isinstance(value, str)
        }

    @contextlib.contextmanager
    def observed(self, note: Note) -> Iterator[None]:
        """While it is open, `note` is called after every operation of the runtime."""
        self.note = note
        try:
            yield
        finally:
            self.note = None

    def operations(self) -> Iterator[Operation]:
        """Those of every function, the encoder's first, in the graph's order; a name that two functions share comes once."""
        seen = set()
        for model in [self.encoder, self.model]:
            if model is None:
                continue
            package = Package(Path(model.package_path))
            for name in sorted(package.function_names, key=lambda name: name != "encode"):
                for operation in package.function(name).operations:
                    if operation.type != "const" and operation.name not in seen:
                        seen.add(operation.name)
                        yield operation

    def session(self) -> Session:
        """A new sequence."""
        session = Session(self.model, self.encoder)
        for each in session.models.values():
            each.use(self.loaded(each))
        session.reset()
        return session


def _asset(model: Model) -> Any:
    """A package in Apple's executor of Core AI, as float32."""
    from milbuild import coreai
    from milbuild.coreai.executor import Executor

    translation = coreai.translate(model, "float32")
    folder = cleanup.temporary_folder()
    try:
        return Executor(translation.save(folder / "translated.aimodel"))
    finally:
        cleanup.remove(folder)


class _CoreAI:
    """A function of an asset as a function of the package it was translated from: images are images, and a classifier's
    probabilities, a tensor there, those of one input."""

    def __init__(self, model: Model, executor: Any) -> None:
        self._function = executor.functions[model.function_name or next(iter(executor.functions))]
        self._images = {
            each.name: color_name(each.type.imageType)
            for each in model.interface.input
            if each.type.WhichOneof("Type") == "imageType"
        }

        self._scores = {
            each.name for each in model.interface.output if each.type.WhichOneof("Type") == "dictionaryType"
        }

    def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, np.ndarray]:
        pixels = {name: self._pixels(data[name], space) for name, space in self._images.items() if name in data}
        found = self._function.predict(data | pixels, state)
        return {name: value.reshape(1, -1) if name in self._scores else value for name, value in found.items()}

    def make_state(self) -> Any:
        return self._function.make_state()

    @staticmethod
    def _pixels(image: Any, space: str) -> np.ndarray:
        """(1, channels, height, width) of 0 to 255."""
        array = np.array(image, np.float32)
        planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return np.ascontiguousarray(planes[::-1] if space == "BGR" else planes)[None]


class _Loaded:
    """A function as Session and `predict` call it, which tells the backend's note of each operation."""

    def __init__(self, function: Any, backend: Backend) -> None:
        self.function, self._backend = function, backend

    def predict(self, data: dict[str, Any], state: Any = None) -> Any:
        note = self._backend.note
        if note is None:
            return self.function.predict(data) if state is None else self.function.predict(data, state)
        return self.function.predict(data, state, note)

    def make_state(self) -> Any:
        return self.function.make_state()
