"""Where a package leaves the model: every landmark beside the module of its name, and how large values get.

A stranger's package has no operations that bear the names of modules: there the operation whose values are nearest to a
module's stands for it.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from milbuild.package.reader import Operation
from milbuild.program.plan import Plan
from milbuild.validation import reference
from milbuild.validation.backend import RUNTIME, Player
from milbuild.validation.cases import FEW, Case
from milbuild.validation.figures import distance, scale

# A landmark where the error is so much larger than at any before it is one where it jumps.
JUMP = 8.0
# Errors over the range (root mean square) that rounding explains: of sums in another order, and of values in float16.
SUMS, HALVES = 1e-6, 2e-3
LARGEST_HALF = 65504.0  # the largest float16 (IEEE 754)
HEADROOM = 2.0
# So near must the values of a stranger's operation be to be taken for a module's, over the range.
NEAR = 0.01


@dataclass(frozen=True)
class Landmark:
    """A module's output in the package. `errors`: root mean square over the reference's range, by backend; `worst`: the largest
    difference over it; `largest`: the largest magnitude in the reference."""

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
    """`rounding`: errors that need no other reason, by backend; `landmarks` in order of computation; `large`, values with less
    than `HEADROOM` left below float16's end; `missing`, modules without an operation where other layers have one, and of a
    stranger's package those behind the last one whose values stand in it; `matched`: by values, not by names."""

    rounding: dict[str, float]
    landmarks: list[Landmark] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    matched: bool = False

    def worst(self, backend: str) -> Landmark:
        """The landmark with the largest error."""
        return max(self.landmarks, key=lambda landmark: landmark.worst[backend])

    def jump(self, backend: str) -> tuple[Landmark, float] | None:
        """(the first landmark where the error is far larger than at any before it, the largest before it), if there is one."""
        before = 0.0
        for landmark in self.landmarks:
            error = landmark.errors[backend]
            if not error <= max(JUMP * before, self.rounding[backend]):
                return landmark, before
            before = max(before, error)
        return None

    @property
    def largest(self) -> Landmark:
        """The landmark with the largest magnitude."""
        return max(self.landmarks, key=lambda landmark: landmark.largest)


def measure(players: dict[str, Player], truth: Any, case: Case, plan: Plan, ours: bool) -> Drift | None:
    """The landmarks of one call or sequence, in float32 (is the graph right?) and as declared (what does precision cost?).

    `ours`: operations bear the names of modules. None where no module's output stands in the package.
    """
    case = case.single()
    with reference.modules(truth) as seen:
        reference.forward(truth, case.inputs)
        expected = dict(seen)
        # A head's modules give few numbers, as its outputs do.
        behind = plan.task in FEW
        terms = reference.terms(truth, case.inputs, lambda found: dict(seen)) if behind else {}
    half = plan.precision == "float16"
    # A state holds float16, whatever else the package declares.
    rounding = {"float32": HALVES if half else SUMS, "declared": HALVES if half or plan.cache == "state" else SUMS}
    drift = Drift(rounding, matched=not ours)
    graph = players["float32"]
    found = _by_name(graph, expected) if ours else _by_value(graph, case, expected)
    places = {operation.name: number for number, operation in enumerate(graph.operations())}
    order = sorted(found, key=lambda module: (places[found[module]], module.count(".")))
    played = {}
    for backend in RUNTIME:
        large = drift.large if backend == "float32" else None
        played[backend] = _watched(players[backend], case, set(found.values()), large)
    for module in order:
        over = scale("", expected[module], terms.get(module, 0.0))
        values = {backend: _joined(kept[found[module]], expected[module].shape) for backend, kept in played.items()}
        figures_ = {
            backend: distance(expected[module], value, over) for backend, value in values.items() if value is not None
        }
        if len(figures_) == len(RUNTIME):
            errors = {backend: _share(psnr) for backend, (_, _, psnr, _) in figures_.items()}
            worst = {backend: over for backend, (_, over, _, _) in figures_.items()}
            largest = float(np.abs(expected[module]).max())
            drift.landmarks.append(Landmark(module, found[module], errors, worst, largest))
    modules = list(expected)
    if ours:
        kinds = {_kind(module) for module in found}
        drift.missing = [module for module in modules if module not in found and _kind(module) in kinds]
    else:
        last = max((number for number, module in enumerate(modules) if module in found), default=-1)
        drift.missing = modules[last + 1 :]
    return drift if drift.landmarks or drift.missing else None


def _kind(module: str) -> str:
    """The same for every layer."""
    return re.sub(r"\d+", "*", module)


def _by_name(player: Player, expected: dict[str, np.ndarray]) -> dict[str, str]:
    """Module path -> the operation that gives its output, in packages whose operations bear the names of modules."""
    return reference.landmarks(expected, [operation.name for operation in player.operations()])


def _by_value(player: Player, case: Case, expected: dict[str, np.ndarray]) -> dict[str, str]:
    """The same by the operation of the same shape whose values are nearest."""
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

    with player.watched(note):
        case.play(player)
    return {module: operation for module, (_, operation) in nearest.items()}


def _watched(player: Player, case: Case, wanted: set[str], large: list[Large] | None) -> dict[str, list[np.ndarray]]:
    """The values of operations, call by call; into `large` go those that come near float16's end."""
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
                if reached > LARGEST_HALF / HEADROOM and reached > getattr(largest.get(operation.name), "largest", 0):
                    largest[operation.name] = Large(operation.name, operation.type, reached)

    with player.watched(note):
        case.play(player)
    if large is not None:
        large += largest.values()
    return kept


def _joined(values: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """The values of all calls as the one array that the module gives of the whole sequence; None where they make no such.

    A package that takes several sequences at once may have been given one. Of pictures the channels may stand last.
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
