"""What the project says of itself: its version, and the targets of its Makefile."""

import re
import subprocess
import tomllib
from pathlib import Path

import milbuild

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_version_is_written_once() -> None:
    file = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert file["project"]["dynamic"] == ["version"]
    source = (ROOT / file["tool"]["hatch"]["version"]["path"]).read_text()
    # The pattern that hatchling looks for, and takes the first of.
    assert re.findall(r'(?im)^(?:__version__|version) *(?:: *str *)?= *["\']v?(.+?)["\']', source) == [
        milbuild.__version__
    ]


def test_every_target_is_described() -> None:
    """`make help` lists those with a text behind `##`."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    rules = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    assert sorted(rules) == sorted(phony.split())
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = dict(re.findall(r"^make ([\w-]+) +(\S.*)$", printed, re.MULTILINE))
    assert list(listed) == rules
    assert printed == subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
