"""Executes saved ML Programs exactly as they are serialised, on any system, with PyTorch's kernels.

    model = milbuild.runtime.load("gpt2.mlpackage", function_name="prefill")
    state = model.make_state()
    outputs = model.predict({"input_ids": ids, "position": [0]}, state)

Inputs, outputs and states are those of coremltools' MLModel; `enable()` puts this under coremltools' own MLModel. It shows
what a package computes, not what Apple's compiler and hardware make of it. It needs `package.reader` and little else of
milbuild.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from milbuild.errors import missing_torch

if TYPE_CHECKING:
    from milbuild.package.reader import Package
    from milbuild.runtime.dropin import disable, enable
    from milbuild.runtime.engine import Engine

__all__ = ["disable", "enable", "load"]


def load(
    path: str | os.PathLike[str],
    function_name: str | None = None,
    precision: str = "declared",
    keep: Sequence[str] = (),
) -> "Engine":
    """A function of the package at `path`, ready to predict.

    Args:
        path: a .mlpackage of type ML Program.
        function_name: the package's default function without it.
        precision: "declared" rounds every result to the type that the package declares for it (products accumulate in
            float32, overflow becomes infinity); "float32" computes in float32 throughout.
        keep: operations whose values are in the model's `kept` after a prediction, by name; `*` is a wildcard.

    Returns:
        an object with `predict(inputs, state=None) -> dict`, `make_state()` and `kept`.

    Raises:
        milbuild.Error: for what is no package, has no such function, or holds an operation that is not known.
    """
    try:
        from milbuild.runtime.engine import Engine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise missing_torch("milbuild.runtime") from None
    return Engine(_opened(Path(path)), function_name, precision, keep)


def _opened(path: Path) -> "Package":
    """A package, the same while it is in use and its files are: functions and precisions share its weights then."""
    from milbuild.package.reader import Package

    stats = [(file, file.stat()) for file in sorted(path.rglob("*"))] if path.is_dir() else []
    key = path, *((file, stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
    if (package := _packages.get(key)) is None:
        package = _packages[key] = Package(path)
    return package


_packages: WeakValueDictionary[Any, "Package"] = WeakValueDictionary()


def __getattr__(name: str) -> Any:
    if name in ("disable", "enable"):
        from milbuild.runtime import dropin

        return getattr(dropin, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
