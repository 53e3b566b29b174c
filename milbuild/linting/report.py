"""The findings of lint: for people a table with the verdict first, for machines a dictionary."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from milbuild.io.tables import Table
from milbuild.linting.rules import ERROR, SEVERITIES, UNITS, WARNING, Finding

SHOWN = 3  # findings of a rule that are printed; the rest are counted


@dataclass(frozen=True)
class FunctionCount:
    """`elsewhere`: operations that are likely not to run on the Neural Engine; `switches`: switches between
    units in a run."""

    operations: int
    elsewhere: int
    switches: int


@dataclass(frozen=True)
class Report:
    """`findings` are those of the rules that count for `unit` (every unit, without one); `rules` is how many were checked."""

    name: str
    target: str
    unit: str | None
    rules: int
    findings: tuple[Finding, ...]
    functions: dict[str, FunctionCount]
    weights: int

    @property
    def passed(self) -> bool:
        """Whether there are no errors."""
        return not self.count(ERROR)

    def count(self, severity: str) -> int:
        """How many findings have a severity: error, warning or info."""
        return sum(finding.rule.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The number of findings of each severity, in words."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        said = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)
        return said or "no findings"

    def said(self, severity: str) -> list[str]:
        """A line for each rule of a severity that was broken: its name, where, what, and how to fix it."""
        found = [finding for finding in self.findings if finding.rule.severity == severity]
        lines = []
        for rule in dict.fromkeys(finding.rule for finding in found):
            where = _spelled([finding for finding in found if finding.rule is rule])
            lines.append(f"{rule.id}: {'; '.join(where)}. {rule.fix}")
        return lines

    def counted(self, severity: str) -> str:
        """ "2 warnings (rank, cast-pair)"; "" where there are none."""
        names = dict.fromkeys(finding.rule.id for finding in self.findings if finding.rule.severity == severity)
        count = self.count(severity)
        return f"{count} {severity}{'' if count == 1 else 's'} ({', '.join(names)})" if count else ""

    def as_dict(self) -> dict[str, Any]:
        """For machines: what `milbuild lint --json` prints."""
        return {
            "package": self.name,
            "target": self.target,
            "unit": self.unit,
            "passed": self.passed,
            "rules": self.rules,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [finding.as_dict() for finding in self.findings],
            "functions": {name: vars(counted) for name, counted in self.functions.items()},
            "weight_bytes": self.weights,
        }

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.padding import Padding
        from rich.text import Text

        color = "red" if not self.passed else "yellow" if self.count(WARNING) else "green"
        verdict = f"{self.verdict} by {self.rules} rules, {self._asked()} ({self.target})"
        lines: list[Any] = [Text.assemble((f"{self.name}: ", "bold"), (verdict, f"bold {color}"))]
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.rule.id, []).append(finding)
        for found in groups.values():
            rule = found[0].rule
            tint = {"error": "red", "warning": "yellow"}.get(rule.severity, "cyan")
            # The finding comes first: the rule alone would read as if it held.
            first, *others = _spelled(found)
            lines.append(Text.assemble("\n", (rule.severity, f"bold {tint}"), " ", (rule.id, "bold"), f"  {first}"))
            likely = f"likely, on the {rule.where}; " if rule.units else ""
            about = [*others, f"rule: {rule.sentence}", f"fix: {rule.fix}"]
            about.append(f"{likely}confidence {rule.confidence}; {rule.source}")
            lines += [Padding(Text(line), (0, 0, 0, 4), expand=False) for line in about]
        return Group(*lines, Text("\nestimates", "bold"), self._counts())

    def _asked(self) -> str:
        """Which rules: those of no unit are always checked, those of a unit where it is named."""
        if self.unit is None:
            return "without those of one compute unit: --unit adds them"
        return f"with those of {'each unit' if self.unit == 'all' else f'the {UNITS[self.unit]}'}"

    def _counts(self) -> Table:
        heads = ["function", "operations", "likely off the Neural Engine", "switches, at least"]
        rows = [
            [name, *(f"{number:,}" for number in vars(counted).values())] for name, counted in self.functions.items()
        ]
        return Table("tnnn", heads, rows)


def _spelled(found: list[Finding]) -> list[str]:
    """The findings, once for all layers: by function, pattern of names and operation type."""
    counted = Counter((f.place.function, f.place.pattern or f.place.operation, f.place.type) for f in found)
    first: dict[Any, Finding] = {}
    for finding in found:
        first.setdefault((finding.place.function, finding.place.pattern, finding.place.type), finding)
    lines = []
    for key, count in list(counted.items())[:SHOWN]:
        function, pattern, kind = key
        where = " ".join(part for part in (function, pattern if kind else "", f"({kind})" if kind else "") if part)
        times = f" ({count} times)" if count > 1 else ""
        lines.append(f"{where}: {first[key].what}{times}" if where else first[key].what)
    left = sum(list(counted.values())[SHOWN:])
    return lines + ([f"and {left} more (--json lists them)"] if left else [])
