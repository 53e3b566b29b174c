"""Where a package's values diverge from the model's: every module output, in the graph's order, and how large values get.

The operations of a third-party package are not named after modules: there a module's output is that of the operation whose
values are nearest to it.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from milbuild.package.reader import Operation
from milbuild.tasks import TASKS
from milbuild.validation import reference
from milbuild.validation.backend import RUNTIME, Backend
from milbuild.validation.cases import Case
from milbuild.validation.comparison import Comparison
from milbuild.validation.figures import distance, scale

# The error jumps at a module where it is so much larger than at any module before it.
JUMP = 8.0
# Errors over the range (root mean square) that rounding explains: of sums in another order, and of values in float16.
SUMS, FLOAT16 = 1e-6, 2e-3
LARGEST_FLOAT16 = 65504.0  # the largest float16 (IEEE 754)
HEADROOM = 2.0
# The largest error, over the range, at which an operation of a third-party package is taken for a module.
NEAR = 0.01


@dataclass(frozen=True)
class ModuleOutput:
    """The output of a module in the package. `errors`: root mean square over the reference's range, by backend; `worst`: the
    largest difference over it; `largest`: the largest magnitude in the reference."""

    module: str
    operation: str
    errors: dict[str, float]
    worst: dict[str, float]
    largest: float


@dataclass(frozen=True)
class Large:
    """An operation whose result, declared in float16, fills more than half of its range: `largest` is its magnitude."""

    operation: str
    type: str
    largest: float


@dataclass
class Drift:
    """`rounding`: errors that rounding alone explains, by backend; `outputs` of modules in the graph's order; `large`, values
    with less than `HEADROOM` left below float16's largest; `missing`, modules without an operation where other layers have
    one, and of a third-party package those after the last one whose values are in it, in the model's order; `matched`: by
    values, not by names."""

    rounding: dict[str, float]
    outputs: list[ModuleOutput] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    matched: bool = False

    def worst(self, backend: str) -> ModuleOutput:
        """The module output with the largest error."""
        return max(self.outputs, key=lambda output: output.worst[backend])

    def jump(self, backend: str) -> tuple[ModuleOutput, float] | None:
        """(the first module output, in the graph's order, whose error is far larger than that of any before it, the largest error
        before it), if there is one."""
        before = 0.0
        for output in self.outputs:
            error = output.errors[backend]
            if not error <= max(JUMP * before, self.rounding[backend]):
                return output, before
            before = max(before, error)
        return None

    @property
    def largest(self) -> ModuleOutput:
        """The module output with the largest magnitude."""
        return max(self.outputs, key=lambda output: output.largest)


def measure(backends: dict[str, Backend], comparison: Comparison, case: Case) -> Drift | None:
    """Module outputs of one call or sequence, in float32 (is the graph right?) and as declared (what does precision cost?).

    None where no module's output is in the package.
    """
    plan, truth, ours = comparison.plan, comparison.truth, comparison.ours
    case = case.single()
    with reference.modules(truth) as seen:
        reference.forward(truth, case.inputs)
        expected = dict(seen)
        # A head's modules give few numbers, as its outputs do.
        few = TASKS[plan.task].few
        terms = reference.terms(truth, case.inputs, lambda outputs: dict(seen)) if few else {}
    float16 = plan.precision == "float16"
    # A state holds float16, whatever else the package declares.
    rounding = {
        "float32": FLOAT16 if float16 else SUMS,
        "declared": FLOAT16 if float16 or plan.cache == "state" else SUMS,
    }
    drift = Drift(rounding, matched=not ours)
    graph = backends["float32"]
    found = _by_name(graph, expected) if ours else _by_value(graph, case, expected)
    values_of = {}
    for name in RUNTIME:
        large = drift.large if name == "float32" else None
        values_of[name] = _observed(backends[name], case, set(found.values()), large)
    for module in found:
        over = scale("", expected[module], terms.get(module, 0.0))
        values = {name: _joined(kept[found[module]], expected[module].shape) for name, kept in values_of.items()}
        figures_ = {
            backend: distance(expected[module], value, over) for backend, value in values.items() if value is not None
        }
        if len(figures_) == len(RUNTIME):
            errors = {backend: _share(psnr) for backend, (_, _, psnr, _) in figures_.items()}
            worst = {backend: over for backend, (_, over, _, _) in figures_.items()}
            largest = float(np.abs(expected[module]).max())
            drift.outputs.append(ModuleOutput(module, found[module], errors, worst, largest))
    modules = list(expected)
    if ours:
        kinds = {_kind(module) for module in found}
        drift.missing = [module for module in modules if module not in found and _kind(module) in kinds]
    else:
        last = max((number for number, module in enumerate(modules) if module in found), default=-1)
        drift.missing = modules[last + 1 :]
    return drift if drift.outputs or drift.missing else None


def _kind(module: str) -> str:
    """The same for every layer."""
    return re.sub(r"\d+", "*", module)


def _by_name(backend: Backend, expected: dict[str, np.ndarray]) -> dict[str, str]:
    """Module path -> the operation that gives its output, in packages whose operations have the names of modules."""
    return reference.module_outputs(expected, (operation.name for operation in backend.operations()))


def _by_value(backend: Backend, case: Case, expected: dict[str, np.ndarray]) -> dict[str, str]:
    """The same, in the graph's order too, by the operation of the same shape whose values are nearest."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for module, value in expected.items():
        shapes.setdefault(value.shape, []).append(module)
    nearest: dict[str, tuple[float, str]] = {}

    def note(operation: Operation, results: tuple[Any, ...]) -> None:
        if len(results) != 1 or not isinstance(results[0], torch.Tensor) or not results[0].is_floating_point():
            return
        for module in shapes.get(tuple(results[0].shape), ()):
            value = results[0].float().numpy()
            error = _share(distance(expected[module], value, scale("", expected[module]))[2])
            if error < min(NEAR, nearest.get(module, (math.inf, ""))[0]):
                nearest[module] = error, operation.name

    with backend.observed(note):
        case.run(backend)
    places = {operation.name: place for place, operation in enumerate(backend.operations())}
    order = sorted(nearest, key=lambda module: (places[nearest[module][1]], module.count(".")))
    return {module: nearest[module][1] for module in order}


def _observed(backend: Backend, case: Case, wanted: set[str], large: list[Large] | None) -> dict[str, list[np.ndarray]]:
    """The values of operations, call by call; those that come near float16's largest are added to `large`."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    largest: dict[str, Large] = {}

    def note(operation: Operation, results: tuple[Any, ...]) -> None:
        if operation.name in wanted:
            kept[operation.name].append(results[0].float().numpy().copy())
        if large is None:
            return
        for output, value in zip(operation.outputs, results, strict=True):
            if output.dtype == "FLOAT16" and isinstance(value, torch.Tensor) and value.numel():
                magnitude = value.abs()
                reached = float(torch.where(torch.isfinite(magnitude), magnitude, 0.0).max())
                if reached > LARGEST_FLOAT16 / HEADROOM and reached > getattr(
                    largest.get(operation.name), "largest", 0
                ):
                    largest[operation.name] = Large(operation.name, operation.type, reached)

    with backend.observed(note):
        case.run(backend)
    if large is not None:
        large += largest.values()
    return kept


def _joined(values: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """The values of all calls as the one array that the module gives for the whole sequence; None where they do not make it up.

    A package that takes several sequences at once may have been given one. The channels of images may be the last axis.
    """
    if values and values[0].ndim == len(shape) and values[0].shape[0] > shape[0]:
        values = [value[: shape[0]] for value in values]
    for axis in range(len(shape)):
        if values and all(value.ndim == len(shape) for value in values):
            try:
                whole = np.concatenate(values, axis=axis)
            except ValueError:
                continue
            if whole.shape == shape:
                return whole
    return reference.channels_first(values[0], shape) if len(values) == 1 else None


def _share(psnr: float) -> float:
    """The root mean square of an error over the range, of its PSNR in dB."""
    return 0.0 if psnr == math.inf else math.inf if psnr == -math.inf else float(10 ** (-psnr / 20))
