"""Saved packages: what is in them (reader), as graphs (graph), and the format of weight.bin (storage).

Imports nothing heavy: options and the command line ask for these names alone.
"""

from pathlib import Path

from milbuild.errors import Error

SUFFIX = ".mlpackage"
# The oldest system that runs a program -> Core ML's specification version (coremltools/__init__.py).
TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}


def package_path(path: Path) -> Path:
    """Where a package is written: `.mlpackage` is added to a name without a suffix. Raises `Error` for another one."""
    if path.suffix == SUFFIX:
        return path
    if path.suffix:
        raise Error(f"{path.name} does not end with {SUFFIX}", f"An ML Program is a folder called {path.stem}{SUFFIX}.")
    return path.with_name(path.name + SUFFIX)
