"""Where the time and the memory of a prediction go: by operation type, and by module.

A module is the name of an operation with `*` for its numbers: `transformer_h_*_attn_c_attn` is that product of every layer.
"""

import os
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from milbuild.errors import Error
from milbuild.io import plots
from milbuild.io.tables import Table
from milbuild.package.graph import pattern
from milbuild.package.reader import Operation, color_name, type_name
from milbuild.runtime.engine import Engine, State


@dataclass(frozen=True)
class Row:
    """`seconds` and `calls` of one prediction; `bytes` of new memory for results, held in float32 and int32."""

    name: str
    calls: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Profile:
    """What `profile` returns. `seconds` of a prediction (median), `peak` bytes of values alive at once, without the weights."""

    package: str
    function: str
    precision: str
    threads: int
    repeat: int
    seconds: float
    peak: int
    weights: int
    types: list[Row]
    modules: list[Row]

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["landmarks"] = found.pop("modules")  # the key that machines read
        return found

    def plot(self, path: str | os.PathLike[str], top: int = 20) -> None:
        """Plots the `top` types and modules; the ending of `path` says the format (svg, png, pdf)."""
        plots.check_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 1.6 + 0.27 * max(map(len, (self.types[:top], self.modules[:top])))))
        panels = figure.subplots(1, 2)
        for panel, title, rows in zip(panels, TITLES, (self.types[:top], self.modules[:top]), strict=True):
            places = range(len(rows))
            panel.barh(places, [1e3 * row.seconds for row in rows], color="#3b6ea8")
            panel.set_yticks(places, [f"{row.name} ({row.calls} calls)" for row in rows], fontsize=8)
            panel.invert_yaxis()
            panel.set_xlabel("ms")
            panel.set_title(f"by {title}", loc="left", fontsize=10)
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(self._headline(), x=0.01, ha="left", fontsize=10)
        figure.tight_layout()
        plots.save(figure, path)

    def _headline(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return (
            f"{self.package}, function {self.function}, {self.precision}: {1e3 * self.seconds:.1f} ms a prediction on "
            f"{threads} (median of {self.repeat}); values {self.peak / 1e6:,.1f} MB at most, "
            f"weights {self.weights / 1e6:,.1f} MB"
        )

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [Text(self._headline(), "bold")]
        total = sum(row.seconds for row in self.types) or 1.0
        for title, rows in zip(TITLES, (self.types, self.modules), strict=True):
            figures = [
                [
                    row.name,
                    str(row.calls),
                    f"{1e3 * row.seconds:.2f}",
                    f"{100 * row.seconds / total:.1f}",
                    f"{row.bytes / 1e6:,.2f}",
                ]
                for row in rows
            ]
            parts += [Text(), Table("tnnnn", [f"by {title}", "calls", "ms", "%", "MB"], figures)]
        return Group(*parts)


TITLES = ("operation type", "module")


def profile(model: Engine, inputs: dict[str, Any] | None = None, repeat: int = 5) -> Profile:
    """Times every operation of `repeat` predictions, after one that warms up.

    Args:
        model: what `milbuild.runtime.load` gives.
        inputs: those of `predict`; without them, `examples(model)`. A state is new for each prediction.
        repeat: predictions; the figures are medians over them.

    Raises:
        milbuild.Error: for wrong inputs.
    """
    if repeat < 1:
        raise Error(f"repeat is {repeat}; it takes at least 1")
    inputs = examples(model) if inputs is None else inputs
    runs: list[list[tuple[Operation, float, int]]] = []
    totals: list[float] = []
    watch = _Memory(model)
    for turn in range(repeat + 1):
        run: list[tuple[Operation, float, int]] = []
        state = model.make_state()
        watch.begin(state)
        clock = time.perf_counter()

        def after(operation: Operation, results: tuple[Any, ...], run: list[Any] = run) -> None:
            nonlocal clock
            seconds = time.perf_counter() - clock
            run.append((operation, seconds, watch.take(operation, results)))
            clock = time.perf_counter()

        model.predict(dict(inputs), state, after)
        if turn:
            runs.append(run)
            totals.append(sum(seconds for _, seconds, _ in run))
    return Profile(
        package=model.package.path.name,
        function=model.function.name,
        precision="declared" if model.rounds else "float32",
        threads=model.threads,
        repeat=repeat,
        seconds=statistics.median(totals),
        peak=watch.peak,
        weights=sum(watch.constants.values()),
        types=_rows(runs, lambda operation: operation.type),
        modules=_rows(runs, lambda operation: pattern(operation.name)),
    )


def examples(model: Engine, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Inputs for a function: zeros for whole numbers (an index that is always inside), seeded normal numbers for others.

    `shapes`: those that differ from the default ones of the package's description.
    """
    shapes = dict(shapes or {})
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for feature in model.description.input:
        if feature.type.WhichOneof("Type") == "imageType":
            made[feature.name] = _noise(feature.type.imageType, random)
            continue
        multi = feature.type.multiArrayType
        shape = shapes.pop(feature.name, tuple(multi.shape))
        whole = type_name(multi).startswith("INT")
        made[feature.name] = np.zeros(shape, np.int32) if whole else random.standard_normal(shape).astype(np.float32)
    if shapes:
        raise Error(f"{model.where} has no array {', '.join(sorted(shapes))}; it has {', '.join(made)}")
    return made


def _noise(image: Any, random: np.random.Generator) -> Any:
    from PIL import Image

    size = (image.height, image.width)
    space = color_name(image)
    if space == "GRAYSCALE_FLOAT16":
        return Image.fromarray(random.random(size, np.float32))
    shape = size if space == "GRAYSCALE" else (*size, 3)
    return Image.fromarray(random.integers(0, 256, shape, np.uint8))


def _rows(runs: list[list[tuple[Operation, float, int]]], key: Any) -> list[Row]:
    """Medians over the runs, the longest first."""
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    calls: dict[str, int] = defaultdict(int)
    new: dict[str, int] = defaultdict(int)
    for number, run in enumerate(runs):
        for operation, taken, size in run:
            name = key(operation)
            seconds[name][number] += taken
            if number == 0:
                calls[name] += 1
                new[name] += size
    rows = [Row(name, calls[name], statistics.median(times), new[name]) for name, times in seconds.items()]
    return sorted(rows, key=lambda row: -row.seconds)


class _Memory:
    """Which storages of values are alive; values that share one count once, constants and states not at all."""

    def __init__(self, model: Engine) -> None:
        self.frees = model.freed_after()
        storages = [tensor.untyped_storage() for tensor in model.constants()]
        self.constants = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self.peak = 0
        self.begin(model.make_state())

    def begin(self, state: State) -> None:
        self.known = self.constants.keys() | {buffer.untyped_storage().data_ptr() for buffer in state.buffers.values()}
        self.alive: dict[str, int] = {}
        self.sizes: dict[int, int] = {}

    def take(self, operation: Operation, results: tuple[Any, ...]) -> int:
        """Notes the results of an operation, and what is freed after it. Returns the bytes that are new."""
        new = 0
        for output, value in zip(operation.outputs, results, strict=True):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage.data_ptr() in self.known:
                    continue
                if storage.data_ptr() not in self.sizes:
                    new += storage.nbytes()
                self.sizes[storage.data_ptr()] = storage.nbytes()
                self.alive[output.name] = storage.data_ptr()
        self.peak = max(self.peak, sum(self.sizes.values()))
        for name in self.frees.get(id(operation), ()):
            pointer = self.alive.pop(name, None)
            if pointer is not None and pointer not in self.alive.values():
                self.sizes.pop(pointer, None)
        return new
