"""Imports coremltools without the heavy packages that it only looks at, in the command line's own process.

coremltools imports torch, scikit-learn, scipy, TensorFlow and transformers whenever they are installed, for converters
that milbuild does not use (coremltools/_deps/__init__.py). As a library milbuild hides nothing.
"""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator

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
            import transformers.models.auto.configuration_auto  # noqa: F401
    # Imported modules live as long as the process: collecting them again and again, at its end too, costs half a second.
    gc.freeze()


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
