"""The result of a validation: figures, a verdict, and texts for people and machines."""

import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from milbuild.errors import Error
from milbuild.io.tables import Table
from milbuild.program.plan import Plan
from milbuild.validation.backend import CORE_AI, CORE_ML, RUNTIME
from milbuild.validation.bar import Bar
from milbuild.validation.drift import LARGEST_FLOAT16, Drift
from milbuild.validation.figures import Row
from milbuild.validation.greedy import Greedy

SHOWN = 3  # operations that come near float16's largest
UNPROVED = (
    "Core ML itself did not run: it needs macOS. How its compiler and the compute units run this graph is not proved; "
    "lint says what is known about it."
)


@dataclass
class Report:
    """`passed`, and why: `rows` and `greedy`, compared with `bar`; `drift` (None where no module's output is in the package);
    `backends` that ran. `ours`: milbuild built the package; of a third-party package the `strange` outputs are not the
    model's. Prints as a table."""

    package: str
    source: str
    plan: Plan
    ours: bool
    bar: Bar
    backends: list[str]
    rows: list[Row] = field(default_factory=list)
    greedy: list[Greedy] = field(default_factory=list)
    drift: Drift | None = None
    strange: set[str] = field(default_factory=set)

    @property
    def passed(self) -> bool:
        """Whether there are rows, and each holds."""
        return bool(self.rows) and all(self.bar.holds(row) for row in self.rows)

    @property
    def verdict(self) -> str:
        """ "passed" or "failed"."""
        return "passed" if self.passed else "failed"

    @property
    def unproved(self) -> str | None:
        """What is not proved where Core ML did not run."""
        return None if any(backend.startswith(CORE_ML) for backend in self.backends) else UNPROVED

    def as_dict(self) -> dict[str, Any]:
        """For machines: the worst of each output, and every figure."""
        outputs: dict[str, Any] = {}
        for row in self.rows:
            worst = outputs.setdefault(row.output, {"max_abs": 0.0, "max_rel": 0.0, "psnr": math.inf, "cosine": 1.0})
            worst["max_abs"] = max(worst["max_abs"], row.max_abs)
            worst["max_rel"] = max(worst["max_rel"], row.max_rel)
            worst["psnr"] = min(worst["psnr"], row.psnr)
            worst["cosine"] = min(worst["cosine"], row.cosine)
        found = {
            "verdict": self.verdict,
            "package": self.package,
            "source": self.source,
            "task": self.plan.task,
            "backends": self.backends,
            "unproved": self.unproved,
            "bar": str(self.bar),
            "outputs": outputs,
            "cases": [
                asdict(row) | {"holds": self.bar.holds(row), "missed": self.bar.missed(row)} for row in self.rows
            ],
            "greedy": [asdict(each) for each in self.greedy],
            "strange_outputs": sorted(self.strange),
            "first_jump": {} if self.drift is None else {name: self._jump(name) for name in RUNTIME},
            "landmarks": [] if self.drift is None else [asdict(each) for each in self.drift.outputs],
            "missing": [] if self.drift is None else self.drift.missing,
            "large": [] if self.drift is None else [asdict(each) for each in self.drift.large],
        }
        return _plain(found)  # type: ignore[no-any-return]

    def _jump(self, backend: str) -> str | None:
        found = None if self.drift is None else self.drift.jump(backend)
        return None if found is None else found[0].module

    def notes(self) -> list[str]:
        """The sentences after the table, one a line."""
        lines = self.missed() + _chosen(self.greedy)
        if left := sum(row.left_out for row in self.rows if row.backend == self.backends[0]):
            lines.append(
                f"{left} rows of padding attend to nothing, so no two implementations agree on them: they are not compared"
            )
        if self.strange:
            lines.append(
                f"not compared, because the model has no output of that shape: {', '.join(sorted(self.strange))}"
            )
        if not self.ours:
            matched = ", ".join(
                f"{change.name} as {name}" for name, change in self.plan.outputs.items() if change is not None
            )
            lines.append(
                f"milbuild did not build this package; its outputs are matched by name, then by shape: {matched}"
            )
        lines += self._drifts()
        if CORE_AI in self.backends:
            lines.append(
                f"{CORE_AI}: Apple's executor ran the translation in float32 on the CPU, which proves operations, shapes and the "
                "graph, not a device's arithmetic"
            )
        return lines + ([] if self.unproved is None else [self.unproved])

    def missed(self) -> list[str]:
        """The rows that miss the bar, the worst of each output first: by how much, and what can be done."""
        lines, failed = [], [row for row in self.rows if not self.bar.holds(row)]
        for output in dict.fromkeys(row.output for row in failed):
            rows = sorted((row for row in failed if row.output == output), key=lambda row: row.psnr)
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            lines.append(f"failed: {output}, {rows[0].case}, {rows[0].backend}: {self.bar.missed(rows[0])}{more}")
        if not failed:
            return lines
        least, most = min(row.psnr for row in failed), max(row.max_rel for row in failed)
        if not math.isfinite(most):
            return [*lines, "the values include NaN or infinity: a result overflowed, or the graph is wrong"]
        right = not any(row.backend == "float32" for row in failed)
        if self.plan.precision == "float16" and self.bar.min_psnr is not None:
            lines.append(
                ("the graph is right: in float32 it passes, and the rest is the cost of float16. " if right else "")
                + f"If that is precise enough for you, pass --min-psnr {max(1, math.floor(least))} (min_psnr); "
                "otherwise build with --precision float32"
            )
        elif self.bar.max_error is not None:
            lines.append(f"if that is precise enough for you, pass --max-error {_above(most)} (max_error)")
        return lines

    def _drifts(self) -> list[str]:
        drift = self.drift
        if drift is None or not drift.outputs:
            return ["no operation has the name or the values of a module: where values diverge cannot be said"]
        how = " (matched by value)" if drift.matched else ""
        lines = []
        worst = {backend: drift.worst(backend) for backend in RUNTIME}
        said = ", ".join(f"{backend} {each.worst[backend]:.1e} at {each.module}" for backend, each in worst.items())
        lines.append(f"{len(drift.outputs)} module outputs{how}, largest error of the range: {said}")
        for backend in RUNTIME:
            if (found := drift.jump(backend)) is not None:
                output, before = found
                lines.append(
                    f"the error first jumps at {output.module} ({backend}): from {before:.1e} to "
                    f"{output.errors[backend]:.1e} of the range (root mean square), operation {output.operation}"
                )
        if drift.missing and drift.matched:
            lines.append(
                f"from {drift.missing[0]} on, no operation has the values of a module ({len(drift.missing)} modules)"
            )
        elif drift.missing:
            # The outermost first, then in the model's order.
            shown = ", ".join(sorted(drift.missing, key=lambda module: module.count("."))[:SHOWN])
            lines.append(f"{len(drift.missing)} modules have no operation, which they have in other layers: {shown}")
        largest = drift.largest
        lines.append(
            f"largest value {largest.largest:,.4g} at {largest.module}; the largest float16 is {LARGEST_FLOAT16:,.0f}"
        )
        for each in sorted(drift.large, key=lambda each: -each.largest)[:SHOWN]:
            lines.append(
                f"warning: {each.operation} ({each.type}, float16) reaches {each.largest:,.0f}: "
                + ("it overflows" if each.largest > LARGEST_FLOAT16 else "less than half of the range is left")
            )
        if len(drift.large) > SHOWN:
            lines.append(
                f"warning: {len(drift.large) - SHOWN} more operations come as close to the largest float16 (--json)"
            )
        return lines

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """(heads, rows): columns without a value are left out."""
        shown = [column for column in COLUMNS if any(column.value(row) is not None for row in self.rows)]
        heads = ["case", "backend", "output", *(column.head for column in shown)]
        rows = [[row.case, row.backend, row.output, *(column.spell(row) for column in shown)] for row in self.rows]
        if not self.passed:  # colours are lost in a file
            heads = [*heads, "passes"]
            rows = [
                [*cells, "yes" if self.bar.holds(row) else "no"] for row, cells in zip(self.rows, rows, strict=True)
            ]
        return heads, rows

    def _headline(self) -> str:
        return f"{self.package} compared with transformers ({self.plan.task}, eager, float32); {self.bar}"

    def markdown(self) -> str:
        """The same as a section of Markdown."""
        heads, rows = self._table()
        lines = [f"**{self.verdict}**: {self._headline()}", "", _line(heads)]
        lines.append("|" + "|".join(["---"] * 3 + ["---:"] * (len(heads) - 3)) + "|")
        for row, cells in zip(self.rows, rows, strict=True):
            lines.append(_line(cells if self.bar.holds(row) else [f"**{cell}**" if cell else "" for cell in cells]))
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes())])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plots error and magnitude at each module output; the ending of `path` says the format (svg, png, pdf).

        Raises `Error` without matplotlib, for other endings, and where there are no module outputs.
        """
        if self.drift is None or not self.drift.outputs:
            raise Error("there is nothing to plot: no operation has the name or the values of a module")
        from milbuild.validation.plot import draw

        worst = [
            min((row for row in self.rows if row.backend == each), key=lambda row: (self.bar.holds(row), row.psnr))
            for each in self.backends
        ]
        title = f"{self.verdict}: {self.package}, {self.plan.task}, {self.plan.precision}"
        draw(path, title, self.drift, self.bar, worst)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        verdict = Text(f"{self.verdict}: ", "bold green" if self.passed else "bold red")
        verdict.append(self._headline(), "default")
        heads, rows = self._table()
        styles = [None if self.bar.holds(row) else "red" for row in self.rows]
        table = Table("ttt" + "n" * (len(heads) - 3), heads, rows, styles)
        notes = [
            Text(
                note,
                "red"
                if note.startswith("failed")
                else "yellow"
                if note.startswith("warning")
                else "dim"
                if note == self.unproved
                else "default",
            )
            for note in self.notes()
        ]
        return Group(verdict, table, *notes)

    def __str__(self) -> str:
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), width=140, color_system=None)
        console.print(self)
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Column:
    head: str
    field: str
    form: str

    def value(self, row: Row) -> float | None:
        return getattr(row, self.field)  # type: ignore[no-any-return]

    def spell(self, row: Row) -> str:
        value = self.value(row)
        return "" if value is None else self.form.format(value)


COLUMNS = (
    _Column("max error", "max_abs", "{:.2e}"),
    _Column("of range", "max_rel", "{:.2e}"),
    _Column("PSNR dB", "psnr", "{:.1f}"),
    _Column("cosine", "cosine", "{:.6f}"),
    _Column("top 1", "agreement", "{:.1%}"),
    _Column("top 5", "top5", "{:.1%}"),
    _Column("KL", "kl", "{:.1e}"),
    _Column("IoU", "iou", "{:.4f}"),
)


def _chosen(greedy: list[Greedy]) -> list[str]:
    """A sentence for each continuation, or one for all backends that chose the model's tokens."""
    lines, same = [], [each.backend for each in greedy if each.same == each.tokens]
    if same:
        lines.append(f"{greedy[0].case}: all {greedy[0].tokens} tokens are the model's ({', '.join(same)})")
    for each in greedy:
        if each.same < each.tokens:
            lines.append(
                f"{each.case} ({each.backend}): the first {each.same} of {each.tokens} tokens are the model's, then "
                f"{each.ours} instead of {each.theirs}, whose logit is {each.margin:.2e} higher"
            )
    return lines


def _above(error: float) -> str:
    """A bound of one digit that the error keeps."""
    power = 10.0 ** math.floor(math.log10(error))
    return f"{math.ceil(error / power * 1.01) * power:.0e}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: Any) -> Any:
    """Infinities as text, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
