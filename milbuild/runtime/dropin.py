"""coremltools' own `predict` and `make_state` on any system: `enable()` replaces its Core ML binding by the runtime.

    import coremltools as ct
    import milbuild.runtime

    milbuild.runtime.enable()
    model = ct.models.MLModel("model.mlpackage")
    model.predict({"x": x})

coremltools does what it does on a Mac, up to its compiled binding `libcoremlpython`; `Proxy` has that binding's interface. It
takes and refuses the same values, and raises RuntimeError where it does. All of coremltools, and modules that imported its
answer, see macOS: elsewhere its helpers that compare a model's outputs return silently.
"""

import importlib.util
import logging
import shutil
import sys
import tempfile
import time
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error, missing_torch

__all__ = ["disable", "enable"]

BINDING = "coremltools.libcoremlpython"
MACOS = (15, 4)
# The specification version of the newest opset that the runtime knows (CoreML9, iOS26).
NEWEST = 10
# What the binding converts; MLModel makes float32 of float16 before.
TAKEN = (np.int32, np.float32, np.float64)
# These two need neural networks or Core ML's plans, which do not run here: they see the true system.
UNPATCHED = (
    "coremltools.models.neural_network.quantization_utils",
    "coremltools.models.ml_program.experimental.compute_plan_utils",
)
# A "compiled" model is a folder that holds the package.
COMPILED, INSIDE = ".mlmodelc", "model.mlpackage"

_ABSENT = object()
_patches: list[tuple[Any, str, Any]] = []
_truth: dict[str, Any] = {}  # what coremltools itself says of the system, while it is patched


def enable() -> None:
    """From now on coremltools' models predict by milbuild.runtime, on macOS too. Models loaded before keep what they have.

    Imports coremltools. A second call changes nothing; `disable()` restores every attribute. Raises `milbuild.Error` without
    PyTorch.
    """
    if _patches:
        return
    if importlib.util.find_spec("torch") is None:
        raise missing_torch("milbuild.runtime")
    with _quiet():
        import coremltools._deps as deps
        import coremltools.models._compiled_model as compiled
        import coremltools.models.model as model
        import coremltools.models.utils as utils
    binding = types.ModuleType(BINDING, "milbuild.runtime in the place of Core ML")
    binding.__dict__["_MLModelProxy"] = Proxy
    real = sys.modules.get(BINDING)
    if real is not None:
        binding.__dict__["__getattr__"] = lambda name: getattr(real, name)
    _replace(sys.modules, BINDING, binding)
    for module in (model, compiled):
        _replace(module, "_MLModelProxy", Proxy)
    _truth.update(_IS_MACOS=deps._IS_MACOS, _is_macos=utils._is_macos, _macos_version=utils._macos_version)
    _tell(_truth, PATCHED)


def disable() -> None:
    """Takes back what `enable` did. Models that were loaded in between keep predicting."""
    while _patches:
        holder, name, value = _patches.pop()
        if isinstance(holder, dict):
            if value is _ABSENT:
                holder.pop(name, None)
            else:
                holder[name] = value
        elif value is _ABSENT:
            delattr(holder, name)
        else:
            setattr(holder, name, value)
    if _truth:
        _tell(PATCHED, _truth)
        _truth.clear()


class Proxy:
    """A loaded function of a package, with the interface of coremltools' binding.

    RuntimeError, the one error of the binding, carries the text of the `milbuild.Error` that caused it.
    """

    def __init__(self, path: str, compute_units: str, function_name: str, hints: dict[str, str], asset: Any) -> None:
        from milbuild.package.reader import Package
        from milbuild.runtime.engine import Engine

        if asset is not None:
            raise RuntimeError("milbuild.runtime loads packages from their path, not from an MLModelAsset")
        began = time.perf_counter_ns()
        self._package = _package(Path(path))
        with _as_binding():
            # All of it is read now: coremltools may remove the file when this returns.
            self._engine = Engine(Package(self._package), function_name or None, "declared", ())
        self._load_duration = time.perf_counter_ns() - began
        self._predict_duration: int | None = None
        self._compiled: Path | None = None

    def predict(self, data: dict[str, Any], state: "ProxyState | None" = None) -> dict[str, Any]:
        values = {name: _converted(name, value) for name, value in data.items()}
        began = time.perf_counter_ns()
        with _as_binding():
            outputs: dict[str, Any] = self._engine.predict(values, None if state is None else state.state)
        self._predict_duration = time.perf_counter_ns() - began
        return outputs

    def batchPredict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.predict(data) for data in batch]

    def newState(self) -> "ProxyState":
        return ProxyState(self._engine.make_state())

    def get_compiled_model_path(self) -> str:
        """A copy of the package that CompiledMLModel loads; it goes when this object goes, as Core ML's does."""
        if self._compiled is None:
            if not self._package.is_dir():
                raise RuntimeError(f"{self._package} is gone")
            folder = tempfile.mkdtemp(prefix="milbuild-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._compiled = _copy(self._package, Path(folder))
        return str(self._compiled)

    def get_load_duration_in_nano_seconds(self) -> int:
        return self._load_duration

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        return self._predict_duration

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return NEWEST

    @staticmethod
    def auto_set_specification_version(model: Any) -> Any:
        """Core ML lowers the version to what the model needs; the version that it declares is right, too."""
        return model

    @staticmethod
    def compileModel(path: str) -> str:
        from milbuild.package.reader import Package

        package = _package(Path(path))
        with _as_binding():
            Package(package)
        return str(_copy(package, Path(tempfile.mkdtemp(prefix="milbuild-"))))

    @staticmethod
    def create_model_asset_from_path(path: str) -> Any:
        raise RuntimeError("milbuild.runtime has no MLModelAsset")

    @staticmethod
    def create_model_asset_from_memory(spec: bytes, blobs: dict[str, bytes]) -> Any:
        raise RuntimeError("milbuild.runtime has no MLModelAsset")


class ProxyState:
    """What MLState wraps."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def read_state(self, name: str) -> np.ndarray:
        with _as_binding():
            value: np.ndarray = self.state.read_state(name)
            return value

    def write_state(self, name: str, value: Any) -> None:
        with _as_binding():
            self.state.write_state(name, _converted(name, value))


def _converted(name: str, value: Any) -> Any:
    """An input as the binding passes it on, or RuntimeError for what it cannot convert."""
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise RuntimeError(f"the input {name} cannot be read as an array: {error}") from error
    if isinstance(value, np.ndarray):
        if value.dtype not in TAKEN:
            taken = ", ".join(np.dtype(dtype).name for dtype in TAKEN)
            raise RuntimeError(f"the input {name} is an array of {value.dtype}; Core ML takes {taken}")
    elif not (hasattr(value, "getbands") or isinstance(value, int | float | str | dict)):
        raise RuntimeError(f"the input {name} is a {type(value).__name__}; Core ML takes arrays and PIL images")
    return value


def _package(path: Path) -> Path:
    """The package at the path of a package or of a compiled model. RuntimeError, by name, for anything else."""
    if path.is_dir() and (path / INSIDE).is_dir():
        return path / INSIDE
    if path.suffix == COMPILED:
        raise RuntimeError(f"{path} was not compiled by milbuild.runtime, which loads packages only")
    if path.is_file():
        import coremltools.proto.Model_pb2 as proto

        try:
            kind = proto.Model.FromString(path.read_bytes()).WhichOneof("Type")
        except Exception as error:  # protobuf's DecodeError has no public base class
            raise RuntimeError(f"{path.name} is not a Core ML model") from error
        what = "a folder, not this one file" if kind == "mlProgram" else f"of the type mlProgram, not {kind}"
        raise RuntimeError(f"{path.name} cannot be executed: milbuild.runtime takes packages {what}")
    return path


def _copy(package: Path, folder: Path) -> Path:
    target = folder / (package.stem + COMPILED)
    shutil.copytree(package, target / INSIDE)
    return target


@contextmanager
def _as_binding() -> Iterator[None]:
    try:
        yield
    except Error as error:
        raise RuntimeError(str(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """coremltools logs at its import that it finds no binding: that is what is being mended."""
    logger = logging.getLogger("coremltools")

    def kept(record: logging.LogRecord) -> bool:
        return "Failed to load _ML" not in record.getMessage()

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)


def _replace(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, dict):
        _patches.append((holder, name, holder.get(name, _ABSENT)))
        holder[name] = value
    else:
        _patches.append((holder, name, getattr(holder, name, _ABSENT)))
        setattr(holder, name, value)


def _tell(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Every module that took coremltools' word for where it runs has another now; modules to come take it from coremltools.

    The two functions are known wherever they were imported to. The constant is a plain bool, so a module must hold something
    else of coremltools, too.
    """
    for key, module in list(sys.modules.items()):
        held = getattr(module, "__dict__", None)
        if not isinstance(held, dict) or key in UNPATCHED:
            continue
        for name in before.keys() & held.keys():
            if held[name] is before[name] and (name != "_IS_MACOS" or _knows_coremltools(key, held)):
                setattr(module, name, after[name])


def _knows_coremltools(key: str, held: dict[str, Any]) -> bool:
    names = (
        key,
        *(str(getattr(value, "__module__", None) or getattr(value, "__name__", "")) for value in held.values()),
    )
    return any(name.partition(".")[0] == "coremltools" for name in names)


def _is_macos() -> bool:
    return True


def _macos_version() -> tuple[int, ...]:
    return MACOS


PATCHED: dict[str, Any] = {"_IS_MACOS": True, "_is_macos": _is_macos, "_macos_version": _macos_version}
