"""What a rule is, and the table of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from milbuild.package.graph import Graphs, Place
from milbuild.package.reader import Package

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
UNITS = {"cpu": "CPU", "gpu": "GPU", "ane": "Neural Engine"}


class Subject(Graphs):
    """A package as the rules see it; `unit` is the compute unit that it is meant for, if one was named."""

    def __init__(self, package: Package, unit: str | None) -> None:
        super().__init__(package)
        self.unit = unit


Finder = Callable[[Subject], Iterator[tuple[Place, str]]]


@dataclass(frozen=True)
class Rule:
    """`finds` yields where and what, as a full clause; `units` are those it counts for, none for all of them; `targets`
    the systems, "" for all."""

    id: str
    severity: str
    sentence: str
    fix: str
    source: str
    confidence: str  # high, medium
    units: tuple[str, ...]
    targets: str
    finds: Finder

    @property
    def where(self) -> str:
        """The units, in words."""
        return " and ".join(UNITS[unit] for unit in self.units) or "every unit"

    def counts(self, unit: str | None) -> bool:
        """Whether it is checked for a unit: a rule of one unit where that unit, or all, is named."""
        return not self.units or unit == "all" or unit in self.units


@dataclass(frozen=True)
class Finding:
    """One breach of a rule. What is known of one unit only is likely, not certain: Apple does not publish what it takes."""

    rule: Rule
    place: Place
    what: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule.id,
            "severity": self.rule.severity,
            "sentence": self.rule.sentence,
            "what": self.what,
            "function": self.place.function,
            "operation": self.place.operation,
            "type": self.place.type,
            "landmark": self.place.pattern,
            "fix": self.rule.fix,
            "source": self.rule.source,
            "confidence": self.rule.confidence,
            "units": list(self.rule.units),
            "targets": self.rule.targets,
        }


RULES: dict[str, Rule] = {}


def rule(
    name: str,
    severity: str,
    sentence: str,
    *,
    fix: str,
    source: str,
    confidence: str = "high",
    units: str = "",
    targets: str = "",
) -> Callable[[Finder], Finder]:
    """Adds a function to the table."""

    def add(finds: Finder) -> Finder:
        if name in RULES:
            raise ValueError(f"two rules are called {name}")
        asked = tuple(units.split())
        RULES[name] = Rule(name, severity, sentence, fix, source, confidence, asked, targets, finds)
        return finds

    return add


def findings(subject: Subject) -> Iterator[Finding]:
    for entry in RULES.values():
        if entry.counts(subject.unit):
            for place, what in entry.finds(subject):
                yield Finding(entry, place, what)
