"""A picture of a validation: error and magnitude at each landmark, in order of computation."""

import math
import os
import re
from itertools import groupby
from typing import Any

from milbuild.io.plots import check_picture, save
from milbuild.validation.backend import RUNTIME
from milbuild.validation.drift import LARGEST_HALF

COLORS = {"float32": "#3b6ea8", "declared": "#d9772b"}
SMALLEST = 1e-9  # what an error of nothing stands at


def draw(report: Any, path: str | os.PathLike[str]) -> None:
    """`report` is a Report with landmarks. Raises `Error` where the picture cannot be written."""
    check_picture(path)
    from matplotlib.figure import Figure

    landmarks = report.drift.landmarks
    places = range(len(landmarks))
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    errors, sizes = figure.subplots(2, 1, sharex=True)
    for backend in RUNTIME:
        values = [max(SMALLEST, landmark.errors[backend]) for landmark in landmarks]
        errors.plot(places, values, color=COLORS[backend], label=backend, linewidth=1.2, marker=".", markersize=4)
        if (found := report.drift.jump(backend)) is not None:
            place = next(number for number, landmark in enumerate(landmarks) if landmark is found[0])
            right = place > len(landmarks) / 2
            errors.annotate(
                f"jumps at {found[0].module}",
                (place, values[place]),
                xytext=(-8 if right else 8, 6),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=9,
                color=COLORS[backend],
            )
    if report.bar.min_psnr is not None:
        bar = 10 ** (-report.bar.min_psnr / 20)
        errors.axhline(bar, color="#b03030", linewidth=1, linestyle="--")
        errors.annotate(
            f"{report.bar.min_psnr:g} dB",
            (0, bar),
            xytext=(4, -12),
            textcoords="offset points",
            fontsize=9,
            color="#b03030",
        )
    _outputs(report, errors, len(landmarks))
    errors.set_ylabel("error over the range\n(root mean square)")
    sizes.plot(places, [max(SMALLEST, landmark.largest) for landmark in landmarks], color="#555555", linewidth=1.2)
    sizes.axhline(LARGEST_HALF, color="#b03030", linewidth=1, linestyle="--")
    sizes.annotate(
        "float16 ends", (0, LARGEST_HALF), xytext=(4, -12), textcoords="offset points", fontsize=9, color="#b03030"
    )
    sizes.set_ylabel("largest magnitude\nin the model")
    for panel in (errors, sizes):
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01, y=0.12)
        panel.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    errors.legend(frameon=False, loc="lower right", ncols=2, fontsize=9)
    _layers(landmarks, (errors, sizes))
    figure.suptitle(
        f"{report.verdict}: {report.package}, {report.plan.task}, {report.plan.precision}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    save(figure, path, dpi=120)


def _outputs(report: Any, panel: Any, place: int) -> None:
    """The worst row of each backend, behind the landmarks: it is the outputs that the bar is for."""
    for backend in report.backends:
        rows = [row for row in report.rows if row.backend == backend]
        row = min(rows, key=lambda row: (report.bar.holds(row), row.psnr))
        held, color = report.bar.holds(row), COLORS.get(backend, "#555555")
        error = 1.0 if row.psnr == -math.inf else max(SMALLEST, 10 ** (-row.psnr / 20))
        panel.plot([place], [error], color=color if held else "#b03030", marker="o" if held else "X", markersize=7)
        if not held:
            panel.annotate(
                f"{row.output} ({backend}) fails",
                (place, error),
                xytext=(-8, 4),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color="#b03030",
            )
    panel.axvline(place - 0.5, color="#e5e5e5", linewidth=0.6)


def _layers(landmarks: list[Any], panels: tuple[Any, ...]) -> None:
    """Shades every second layer, and names layers and what stands between them below the axis."""
    at, shaded, ticks, names, before = 0, False, [], [], ""
    for owner, group in groupby(landmarks, key=lambda landmark: _layer(landmark.module)):
        count = len(list(group))
        stem, number = re.fullmatch(r"(.*?)(\d*)", owner, re.DOTALL).groups()  # type: ignore[union-attr]
        if number:
            if shaded:
                for panel in panels:
                    panel.axvspan(at - 0.5, at + count - 0.5, color="#f3f3f3", linewidth=0, zorder=0)
            shaded = not shaded
            ticks.append(at + (count - 1) / 2)
            names.append(number if stem == before else owner)
        elif not ticks or count > 2 or at - ticks[-1] > len(landmarks) / 30:
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
