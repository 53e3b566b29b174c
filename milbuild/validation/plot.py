"""A plot of a validation: error and magnitude at each module output, in the graph's order."""

import math
import os
import re
from itertools import groupby
from typing import Any

from milbuild.io.plots import check_plot, save
from milbuild.validation.backend import RUNTIME
from milbuild.validation.bar import Bar
from milbuild.validation.drift import LARGEST_FLOAT16, Drift, ModuleOutput
from milbuild.validation.figures import Row

COLORS = {"float32": "#3b6ea8", "declared": "#d9772b"}
SMALLEST = 1e-9  # where an error of 0 is drawn


def draw(path: str | os.PathLike[str], title: str, drift: Drift, bar: Bar, worst: list[Row]) -> None:
    """Module outputs, and after them the `worst` row of each backend: it is the package's outputs that the bar is for. Raises
    `Error` where the plot cannot be written."""
    check_plot(path)
    from matplotlib.figure import Figure

    outputs = drift.outputs
    places = range(len(outputs))
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    errors, sizes = figure.subplots(2, 1, sharex=True)
    for backend in RUNTIME:
        values = [max(SMALLEST, output.errors[backend]) for output in outputs]
        errors.plot(places, values, color=COLORS[backend], label=backend, linewidth=1.2, marker=".", markersize=4)
        if (found := drift.jump(backend)) is not None:
            place = next(number for number, output in enumerate(outputs) if output is found[0])
            right = place > len(outputs) / 2
            errors.annotate(
                f"jumps at {found[0].module}",
                (place, values[place]),
                xytext=(-8 if right else 8, 6),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=9,
                color=COLORS[backend],
            )
    if bar.min_psnr is not None:
        bound = 10 ** (-bar.min_psnr / 20)
        errors.axhline(bound, color="#b03030", linewidth=1, linestyle="--")
        errors.annotate(
            f"{bar.min_psnr:g} dB",
            (0, bound),
            xytext=(4, -12),
            textcoords="offset points",
            fontsize=9,
            color="#b03030",
        )
    _worst_rows(worst, bar, errors, len(outputs))
    errors.set_ylabel("error over the range\n(root mean square)")
    sizes.plot(places, [max(SMALLEST, output.largest) for output in outputs], color="#555555", linewidth=1.2)
    sizes.axhline(LARGEST_FLOAT16, color="#b03030", linewidth=1, linestyle="--")
    sizes.annotate(
        "largest float16",
        (0, LARGEST_FLOAT16),
        xytext=(4, -12),
        textcoords="offset points",
        fontsize=9,
        color="#b03030",
    )
    sizes.set_ylabel("largest magnitude\nin the model")
    for panel in (errors, sizes):
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01, y=0.12)
        panel.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    errors.legend(frameon=False, loc="lower right", ncols=2, fontsize=9)
    _layers(outputs, (errors, sizes))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path, dpi=120)


def _worst_rows(worst: list[Row], bar: Bar, panel: Any, place: int) -> None:
    for row in worst:
        held, color = bar.holds(row), COLORS.get(row.backend, "#555555")
        error = 1.0 if row.psnr == -math.inf else max(SMALLEST, 10 ** (-row.psnr / 20))
        panel.plot([place], [error], color=color if held else "#b03030", marker="o" if held else "X", markersize=7)
        if not held:
            panel.annotate(
                f"{row.output} ({row.backend}) fails",
                (place, error),
                xytext=(-8, 4),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color="#b03030",
            )
    panel.axvline(place - 0.5, color="#e5e5e5", linewidth=0.6)


def _layers(outputs: list[ModuleOutput], panels: tuple[Any, ...]) -> None:
    """Shades every second layer, and names the layers and what is between them below the axis."""
    at, shaded, ticks, names, before = 0, False, [], [], ""
    for owner, group in groupby(outputs, key=lambda output: _layer(output.module)):
        count = len(list(group))
        stem, number = re.fullmatch(r"(.*?)(\d*)", owner, re.DOTALL).groups()  # type: ignore[union-attr]
        if number:
            if shaded:
                for panel in panels:
                    panel.axvspan(at - 0.5, at + count - 0.5, color="#f3f3f3", linewidth=0, zorder=0)
            shaded = not shaded
            ticks.append(at + (count - 1) / 2)
            names.append(number if stem == before else owner)
        elif not ticks or count > 2 or at - ticks[-1] > len(outputs) / 30:
            ticks.append(at + (count - 1) / 2)
            names.append(owner)
        before, at = stem, at + count
    panels[-1].set_xticks(ticks, names, fontsize=8, rotation=90)
    for label in panels[-1].get_xticklabels():
        if label.get_text().isdigit():
            label.set_rotation(0)
    panels[-1].tick_params(axis="x", length=0)


def _layer(module: str) -> str:
    """The path up to its first number, else up to its second name."""
    found = re.match(r".*?\.\d+(?=\.|$)", module)
    return found[0] if found else ".".join(module.split(".")[:2])
