"""What Core ML and its compute units accept and run well: one rule, one function.

Nobody publishes what the Neural Engine runs, so what a rule says of one unit is likely, not certain, with its source; and a
package without findings is not certified. The module is not called lint: that is the public function.
"""

from typing import Any

from milbuild.errors import Error
from milbuild.linting import consumers, faults, interfaces, numbers, placement, states, weights
from milbuild.linting.report import FunctionCount, Report
from milbuild.linting.rules import RULES, SEVERITIES, UNITS, Finding, Rule, Subject, findings
from milbuild.package.reader import Package, Source, path_of, target

__all__ = ["RULES", "Finding", "Report", "Rule", "lint", "lint_program"]

CHOICES = (*UNITS, "all")
# Importing them fills the table.
MODULES = (interfaces, numbers, states, placement, weights, faults, consumers)


def lint(package: Source, unit: str | None = None) -> Report:
    """Checks a saved package, whoever built it, or a `milbuild.Model`, by the rules. Raises `Error` for other files.

    Without a `unit` these are the rules that hold on every unit, which a build checks too. `unit` is cpu, gpu, ane (the Neural
    Engine) or all: the rules of that unit, or of each, are checked as well.
    """
    path = path_of(package)
    return _report(Package(path), unit)


def lint_program(spec: Any, name: str, unit: str | None = None) -> Report:
    """The same for a program that was lowered and not saved (the Model protobuf): everything but the values of its weights,
    which are not written yet."""
    return _report(Package(name, spec), unit)


def _report(package: Package, unit: str | None) -> Report:
    if unit is not None and unit not in CHOICES:
        raise Error(f"unit is {unit!r}; it must be one of {', '.join(CHOICES)}")
    subject = Subject(package, unit)
    found = sorted(findings(subject), key=lambda finding: SEVERITIES.index(finding.rule.severity))
    functions = {graph.name: FunctionCount(len(graph.work), *placement.switches(graph)) for graph in subject.graphs}
    return Report(
        package.path.name,
        target(subject.version),
        unit,
        sum(rule.counts(unit) for rule in RULES.values()),
        tuple(found),
        functions,
        subject.weight_bytes,
    )
