"""What a validation found: figures, a verdict, and texts for people and machines."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.options import Plan

# What a package must hold, by its precision. float32: rounding of another order of summation. Keys and values in a state
# are float16 whatever the rest is. float16: Apple's own bar for a compiled model is 40 dB (core-ml-facts Z5); a graph that
# is right reaches 55 dB on the runtime with room to spare.
MAX_REL = 1e-5
MAX_REL_STATE = 2e-3
MIN_PSNR = 55.0


@dataclass(frozen=True)
class Row:
    """One output of one case on one backend. `max_rel` is over the reference's range, `psnr` in dB over it too."""

    case: str
    backend: str
    output: str
    max_abs: float
    max_rel: float
    psnr: float
    agreement: float  # the share of rows whose largest value stands at the same place

    @classmethod
    def of(cls, case: str, backend: str, output: str, expected: np.ndarray, value: np.ndarray) -> "Row":
        if expected.shape != value.shape:
            raise Error(
                f"the package and the checkpoint do not belong together: {output} has the shape {value.shape}, "
                f"transformers' of other shape {expected.shape}",
                "Validate a package with the checkpoint it was built from.",
            )
        error = np.abs(expected.astype(np.float64) - value)
        span = float(np.ptp(expected)) or 1.0
        worst = float(error.max()) if np.isfinite(error).all() else math.inf
        rms = float(np.sqrt(np.mean(error**2))) if math.isfinite(worst) else math.inf
        psnr = math.inf if rms == 0 else 20 * math.log10(span / rms) if math.isfinite(rms) else -math.inf
        same = float((expected.argmax(-1) == value.argmax(-1)).mean())
        return cls(case, backend, output, worst, worst / span, psnr, same)


@dataclass
class Drift:
    """Errors over the range at every landmark, by module path and backend, and the largest magnitude there."""

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def worst(self, backend: str) -> tuple[str, float]:
        return max(((module, errors[backend]) for module, errors in self.errors.items()), key=lambda pair: pair[1])


@dataclass
class Report:
    """`passed`, and why: `rows`, `drift` (None with a cache), `backends` that ran. Prints as a table."""

    package: str
    source: str
    plan: Plan
    rows: list[Row] = field(default_factory=list)
    drift: Drift | None = None
    backends: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(self.holds(row) for row in self.rows)

    @property
    def verdict(self) -> str:
        return "passed" if self.passed else "failed"

    def holds(self, row: Row) -> bool:
        """Whether a row keeps the bar of the package's precision."""
        if self.plan.precision == "float16" or row.backend == "Core ML":
            return row.psnr >= MIN_PSNR
        return row.max_rel <= (MAX_REL_STATE if self.plan.cache == "state" else MAX_REL)

    @property
    def bar(self) -> str:
        if self.plan.precision == "float16":
            return f"PSNR of at least {MIN_PSNR:g} dB"
        return f"error of at most {MAX_REL_STATE if self.plan.cache == 'state' else MAX_REL:g} of the output's range"

    def as_dict(self) -> dict[str, Any]:
        """For machines: the worst of each output, and every row."""
        outputs: dict[str, Any] = {}
        for row in self.rows:
            worst = outputs.setdefault(row.output, {"max_abs": 0.0, "max_rel": 0.0, "psnr": math.inf})
            worst["max_abs"] = max(worst["max_abs"], row.max_abs)
            worst["max_rel"] = max(worst["max_rel"], row.max_rel)
            worst["psnr"] = min(worst["psnr"], row.psnr)
        return {
            "verdict": self.verdict,
            "package": self.package,
            "source": self.source,
            "backends": self.backends,
            "bar": self.bar,
            "outputs": {
                name: {key: _json(value) for key, value in figures.items()} for name, figures in outputs.items()
            },
            "cases": [{key: _json(value) for key, value in vars(row).items()} for row in self.rows],
            "landmarks": {} if self.drift is None else self.drift.errors,
        }

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        verdict = Text(f"{self.verdict}: ", "bold green" if self.passed else "bold red")
        verdict.append(f"{self.package} against transformers, eager, float32; {self.bar}", "default")
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("case", "backend", "output"):
            table.add_column(name)
        for name in ("max error", "over range", "PSNR dB", "same choice"):
            table.add_column(name, justify="right")
        for row in self.rows:
            style = None if self.holds(row) else "red"
            psnr = "inf" if math.isinf(row.psnr) else f"{row.psnr:.1f}"
            table.add_row(
                row.case,
                row.backend,
                row.output,
                f"{row.max_abs:.2e}",
                f"{row.max_rel:.2e}",
                psnr,
                f"{row.agreement:.1%}",
                style=style,
            )
        lines: list[Any] = [verdict, table]
        if self.drift is not None:
            for backend in ("float32", "declared"):
                module, error = self.drift.worst(backend)
                lines.append(
                    Text(
                        f"{len(self.drift.errors)} landmarks, {backend}: largest error {error:.2e} of the range, at {module}"
                    )
                )
        if "Core ML" not in self.backends:
            lines.append(
                Text(
                    "Core ML itself did not run: it needs macOS. The runtime shows the graph's numbers, not a device's.",
                    "dim",
                )
            )
        return Group(*lines)

    def __str__(self) -> str:
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), width=140, color_system=None)
        console.print(self)
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def _json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
