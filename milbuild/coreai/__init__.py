"""Core ML packages as Core AI assets (.aimodel), for iOS and macOS 27: any ML Program, whoever made it, operation by operation.

    from milbuild import coreai

    translation = coreai.translate("gpt2.mlpackage")
    print(translation.notes)  # what Core AI has no counterpart for
    translation.save("gpt2.aimodel")

It needs coreai-core, which Apple publishes for macOS and Linux (the extra `coreai`); on both it executes assets, too:
`coreai.executor`. docs/coreai.md says what is translated, and what was compared.
"""

import importlib.util
from typing import TYPE_CHECKING

from milbuild.errors import Error

if TYPE_CHECKING:
    from milbuild.coreai.translator import Translation
    from milbuild.package.reader import Source

SUFFIX = ".aimodel"
# What the rules and private.py were tried with.
VERSION = "1.0.0b3"


def translate(source: "Source", precision: str | None = None) -> "Translation":
    """All functions of a package as one Core AI program.

    Args:
        source: a .mlpackage of type ML Program, or a model that knows where its package is (`milbuild.Model`, coremltools'
            MLModel).
        precision: "float32" makes everything of float16 float32, states too: Apple's executor off a device emulates float16, a
            hundred times slower, and adds up in it. By default types stay.

    Returns:
        a `Translation`; its `save` writes the asset. Weights stay in the package's file till then.

    Raises:
        milbuild.Error: for a package that is none, one with an operation that has no rule (each is listed with its line of the
            program), and without coreai-core.
    """
    needed()
    if precision not in (None, "float32"):
        raise Error(f"precision is {precision!r}; it must be float32", "Leave it out to keep the package's types.")
    from milbuild.coreai.translator import translated
    from milbuild.package.reader import Package, path_of

    return translated(Package(path_of(source)), precision == "float32")


def needed() -> None:
    """Raises `Error` where coreai-core is not installed."""
    if importlib.util.find_spec("coreai") is None:
        raise Error(
            "Core AI assets need coreai-core, which is not installed",
            f"pip install coreai-core=={VERSION} (the extra milbuild[coreai]). Apple has it for macOS on arm64 and Linux, with "
            "Python 3.11 to 3.14.",
        )
