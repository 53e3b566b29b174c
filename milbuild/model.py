"""Model: coremltools' MLModel over a build that is not on the disk yet, or over a saved package, on any system."""

import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coremltools as ct

from milbuild.errors import Error
from milbuild.io import cleanup
from milbuild.lowering import writer
from milbuild.lowering.blob import BlobPlan
from milbuild.package import SUFFIX, package_path, reader

if TYPE_CHECKING:
    from milbuild.linting import Report


def units_of(value: ct.ComputeUnit | str) -> ct.ComputeUnit:
    """coremltools' compute units, or their name in any spelling: "cpu_and_gpu". Raises `Error`."""
    if isinstance(value, ct.ComputeUnit):
        return value
    name = str(value).upper().replace("-", "_")
    if name not in ct.ComputeUnit.__members__:
        known = ", ".join(member.lower() for member in ct.ComputeUnit.__members__)
        raise Error(f"compute_units is {value!r}; it must be one of {known}")
    return ct.ComputeUnit[name]


class Model(ct.models.MLModel):  # type: ignore[misc]
    """What `milbuild.build` returns, and what a saved package opens as: `Model("gpt2.mlpackage", function_name="prefill")`.

    Everything of coremltools' MLModel works on it. On macOS `predict` and `make_state` are Core ML's, elsewhere those of
    `milbuild.runtime`, with the same arguments and results. `save` never leaves half a package and may name the
    path that the model came from. Opening a package does not write into it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        function_name: str | None = None,
        compute_units: ct.ComputeUnit | str = ct.ComputeUnit.ALL,
    ) -> None:
        path = Path(model).expanduser()
        self._open(reader.read_spec(path), path, None, function_name, units_of(compute_units))

    @classmethod
    def built(cls, spec: Any, weights: BlobPlan, compute_units: ct.ComputeUnit, report: "Report | None") -> "Model":
        """The model of a lowered program, whose weights are still where the checkpoint has them, and what lint said of it."""
        model = cls.__new__(cls)
        model._open(spec, None, weights, None, compute_units)
        model.lint_report = report
        return model

    def _open(
        self, spec: Any, path: Path | None, weights: BlobPlan | None, function: str | None, units: ct.ComputeUnit
    ) -> None:
        # The attributes that MLModel's own constructor sets; it would copy the package and rewrite its manifest.
        self._spec = spec
        self._path, self._weights = path, weights
        self._engine: Any = None
        self._functions: dict[str, Model] = {}
        self._owner: Model | None = None
        self.lint_report: Report | None = None  # of a build, unless lint=False
        self.unread_fields: tuple[str, ...] = ()  # of a build: fields of config.json that are not read
        self.compute_unit = units
        self.optimization_hints = None
        self.is_package = True
        self.is_temp_package = False
        self._mil_program = None
        self._framework_error = None
        self.__proxy__ = None
        functions = [description.name for description in spec.description.functions]
        self.function_name = function or spec.description.defaultFunctionName or None
        if self.function_name is not None and self.function_name not in (functions or ["main"]):
            raise Error(f"the package has no function {self.function_name}; it has {', '.join(functions or ['main'])}")
        self._interface = next(
            (f for f in spec.description.functions if f.name == self.function_name), spec.description
        )
        self._input_description = ct.models.model._FeatureDescription(self._interface.input)
        self._output_description = ct.models.model._FeatureDescription(self._interface.output)
        self._model_input_names_set = {feature.name for feature in self._interface.input}

    def function(self, name: str) -> "Model":
        """The same package with another function as the one that `predict` calls; states can be shared between them."""
        if name not in self._functions:
            other = type(self).__new__(type(self))
            self._materialise()
            other._open(self._spec, self._path, self._weights, name, self.compute_unit)
            other._owner = self  # which removes the temporary package when it goes
            self._functions[name] = other
        return self._functions[name]

    @property
    def interface(self) -> Any:
        """The description (input, output, state) of the function that `predict` calls."""
        return self._interface

    def shape(self, output: str) -> tuple[int | None, ...] | None:
        """That of an output of this function as the program has it; None for a length that is known at the call only."""
        function = self._spec.mlProgram.functions[self.function_name or "main"]
        for operation in reversed(function.block_specializations[function.opset].operations):
            for value in operation.outputs:
                if value.name == output:
                    return reader.type_of(value)[1]
        return None

    @property
    def package_path(self) -> str:
        """The package on the disk; a build that was not saved is written to a temporary folder first."""
        return str(self._materialise())

    @property
    def weight_bytes(self) -> int:
        """The size of weight.bin, known before it is written."""
        return self._weights.end if self._weights is not None else self._saved_weights().stat().st_size

    @property
    def weights_dir(self) -> str:
        """The folder of weight.bin in that package."""
        return str(self._materialise() / writer.ROOT / writer.WEIGHTS.parent)

    _weights_dir = weights_dir

    def save(
        self, save_path: str | os.PathLike[str], progress: writer.Progress | None = None, replace: bool = True
    ) -> None:
        """Writes the package; `.mlpackage` is added to a name without a suffix. A package that is there is replaced when
        done, as coremltools' MLModel does, unless `replace` is False, as on the command line; nothing else ever is.

        `progress(bytes_written, bytes_in_all)` is called while the weights are converted. Raises `Error` for weights that
        the precision cannot hold, when something is there that is not replaced, and when the path cannot be written
        to; then nothing has changed.
        """
        target = package_path(Path(save_path).expanduser())
        weights = self._weights if self._weights is not None else self._saved_weights()
        writer.write(self._spec, weights, target, progress, replace)

    def predict(self, data: dict[str, Any] | list[dict[str, Any]], state: Any = None) -> Any:
        """Outputs by name for inputs by name (or a list of them); float16 outputs come as float32, as from coremltools."""
        engine = self._loaded()
        if isinstance(data, list):
            if state is not None:
                raise Error("a state serves one prediction at a time, not a list")
            return [engine.predict(each) for each in data]
        return engine.predict(data, state)

    def make_state(self) -> Any:
        """A new state: a cache that holds nothing yet."""
        return self._loaded().make_state()

    def core_ml(self) -> ct.models.MLModel:
        """The function of this model in Core ML itself, on macOS."""
        name = self.function_name if self._spec.description.functions else None
        return ct.models.MLModel(self.package_path, compute_units=self.compute_unit, function_name=name)

    def use(self, engine: Any) -> None:
        """Lets `engine` (of `core_ml()` or `milbuild.runtime.load`) answer `predict` and `make_state` from now on."""
        self._engine = engine

    def load(self) -> None:
        """Loads what `predict` needs, which otherwise happens at its first call."""
        self._loaded()

    def _loaded(self) -> Any:
        if self._engine is None:
            if sys.platform == "darwin":
                self._engine = self.core_ml()
            else:
                from milbuild import runtime

                self._engine = runtime.load(self.package_path, function_name=self.function_name)
        return self._engine

    def _saved_weights(self) -> Path:
        return self._materialise() / writer.ROOT / writer.WEIGHTS

    def _materialise(self) -> Path:
        if self._path is None or not self._path.exists():
            if self._weights is None:
                raise Error(f"{self._path} is gone")
            folder = cleanup.temporary_folder()
            weakref.finalize(self, cleanup.remove, folder)
            path = folder / f"model{SUFFIX}"
            writer.write(self._spec, self._weights, path)
            self._path = path
        return self._path
