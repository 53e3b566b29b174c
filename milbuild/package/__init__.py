"""Saved packages: what is in them (reader), as graphs (graph), and the format of weight.bin (storage).

Imports nothing heavy: options and the command line ask for these names alone.
"""

from pathlib import Path

from milbuild.errors import Error

SUFFIX = ".mlpackage"
# The oldest system that runs a program -> Core ML's specification version (coremltools/__init__.py).
TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}


def package_path(path: Path, suffix: str = SUFFIX) -> Path:
    """Where a package is written: its suffix is added to a name without one. Raises `Error` for another one."""
    if path.suffix == suffix:
        return path
    if path.suffix:
        kind = "An ML Program" if suffix == SUFFIX else "A Core AI asset"
        raise Error(f"{path.name} does not end with {suffix}", f"{kind} is a folder called {path.stem}{suffix}.")
    return path.with_name(path.name + suffix)
