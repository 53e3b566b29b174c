"""A package on one backend: its engines, loaded once, and what may watch them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from milbuild import runtime
from milbuild.generation.session import Session
from milbuild.model import Model
from milbuild.package.reader import Operation, Package

RUNTIME = ("float32", "declared")
CORE_ML = "Core ML"
# Core ML chooses for itself with "all": each of these says what one unit makes of a package.
UNITS = ("cpu_only", "cpu_and_gpu", "cpu_and_ne")

# Called behind every operation with the operation and its results, as tensors
Note = Callable[[Operation, tuple[Any, ...]], None]


class Player:
    """`backend` is "float32" or "declared" (how the runtime rounds), or "Core ML" with the compute units behind it."""

    def __init__(self, package: Path, encoder: Path | None, backend: str) -> None:
        self.package, self.backend = package, backend
        units = backend.removeprefix(CORE_ML).strip() if backend.startswith(CORE_ML) else ct.ComputeUnit.ALL
        self.model = Model(package, compute_units=units)
        self.encoder = None if encoder is None else Model(encoder, compute_units=units)
        self.note: Note | None = None
        self._engines: dict[Any, _Engine] = {}

    def engine(self, model: Model | None = None) -> "_Engine":
        """What predicts for a function of the package, the default one without any."""
        model = model or self.model
        key = (model.package_path, model.function_name)
        if key not in self._engines:
            core_ml = self.backend.startswith(CORE_ML)
            loaded = model.core_ml() if core_ml else runtime.load(*key, self.backend)
            self._engines[key] = _Engine(loaded, self)
        return self._engines[key]

    def predict(self, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name, of a classifier the probabilities in the order of its labels, without the label."""
        outputs = self.engine().predict(data)
        return {
            name: np.array([list(value.values())], np.float32) if isinstance(value, dict) else value
            for name, value in outputs.items()
            if not isinstance(value, str)
        }

    @contextlib.contextmanager
    def watched(self, note: Note) -> Iterator[None]:
        """While it is open, `note` sees every operation of the runtime."""
        self.note = note
        try:
            yield
        finally:
            self.note = None

    def operations(self) -> Iterator[Operation]:
        """Those of every function, the encoder's first, as they are computed; a name that two functions have comes once."""
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
        """One sequence, from its beginning."""
        session = Session(self.model, self.encoder)
        for each in session.models.values():
            each.use(self.engine(each))
        session.reset()
        return session


class _Engine:
    """What Session and predict call; tells the player's note of each operation."""

    def __init__(self, loaded: Any, player: Player) -> None:
        self.loaded, self._player = loaded, player

    def predict(self, data: dict[str, Any], state: Any = None) -> Any:
        note = self._player.note
        if note is None:
            return self.loaded.predict(data) if state is None else self.loaded.predict(data, state)
        return self.loaded.predict(data, state, note)

    def make_state(self) -> Any:
        return self.loaded.make_state()
