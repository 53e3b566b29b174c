"""pyproject.toml's lower bounds are what `make test-oldest` installs; both constraint files name every dependency."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
TOOLS = {"mypy", "ruff", "milbuild"}  # which check the source, and the package itself


def _declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # `docs` is what builds the site, in an environment that no test runs in; `coreai` is one release, with no others to try.
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in ("docs", "coreai")]
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {each.name: each for each in map(Requirement, lines) if each.name not in TOOLS}


def _constrained(name: str) -> list[Requirement]:
    lines = (ROOT / "tests" / "constraints" / f"{name}.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_constraints_are_admitted(name: str) -> None:
    constrained, declared = _constrained(name), _declared()
    assert declared.keys() <= {each.name for each in constrained}
    for each in constrained:
        (version,) = (clause.version for clause in each.specifier)
        together = each.name in declared and any(
            all(
                line.marker is None or line.marker.evaluate({"python_version": python})
                for line in (each, declared[each.name])
            )
            for python in PYTHONS
        )
        assert not together or declared[each.name].specifier.contains(version), each


def test_the_oldest_are_the_lower_bounds() -> None:
    oldest = {each.name: str(each.specifier).removeprefix("==") for each in _constrained("oldest")}
    for name, requirement in _declared().items():
        (bound,) = re.findall(r"[>=]=([\d.]+)", str(requirement.specifier))
        assert Version(oldest[name]) == Version(bound), name
