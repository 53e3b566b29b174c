"""Imports coremltools without the heavy packages that it only looks at, in the command line's own process.

coremltools imports torch, scikit-learn, scipy, TensorFlow and transformers whenever they are installed, for converters
that milbuild does not use (coremltools/_deps/__init__.py). As a library milbuild hides nothing.
"""

import contextlib
import gc
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

UNUSED = (
    "torch",
    "torchvision",
    "torchaudio",
    "torchao",
    "executorch",
    "sklearn",
    "scipy",
    "tensorflow",
    "transformers",
)


def prepare(configurations: bool = False) -> None:
    """Imports coremltools alone, and on request transformers' configuration classes, which would import torch too.

    For commands that use PyTorch `configurations` must stay out: transformers remembers that it found none.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # "Failed to load _MLModelProxy" (off macOS) and "Torch version ... has not been tested" are no news to a user.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with _hidden(UNUSED):
        import coremltools  # noqa: F401
    if configurations:
        with _hidden(("torch", "torchvision")):
            _without_indexes()
            import transformers.models.auto.configuration_auto  # noqa: F401
    # Imported modules live as long as the process: collecting them again and again, at its end too, costs half a second.
    gc.freeze()


def _without_indexes() -> None:
    """Lets the modules of transformers be imported without the packages above them.

    These read the files of all models, twice, to list every class that there is, which takes a second. Packages of the same
    names that list nothing take their places, until somebody asks one of them for what it does not have.
    """
    if "transformers" in sys.modules:
        return

    def ask(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for package in packages:
            if sys.modules.get(package.__name__) is package:
                del sys.modules[package.__name__]
        return getattr(importlib.import_module("transformers"), name)

    packages = []
    for name in ("transformers", "transformers.models"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        package = types.ModuleType(name)
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
        vars(package).update(__version__=version("transformers"), __getattr__=ask)
        sys.modules[name] = package
        packages.append(package)


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Lets `import name` fail for packages that nobody has imported yet."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]
