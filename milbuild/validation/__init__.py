"""Numbers against transformers: a saved package beside the PyTorch model of the same checkpoint."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milbuild.errors import missing_torch

if TYPE_CHECKING:
    from milbuild.model import Model
    from milbuild.validation.report import Report

__all__ = ["validate"]


def validate(
    package: "str | os.PathLike[str] | Model",
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    seed: int = 0,
    encoder: "str | os.PathLike[str] | Model | None" = None,
) -> "Report":
    """Compares a package with transformers' model of its checkpoint, in eager float32, on seeded random token ids or pictures.

    What the package was built for is in its metadata. Without a cache: the shortest, the middle and the longest call,
    a padded batch where the package takes one. With a cache: a sequence in prefill and decode calls against one forward
    pass over the whole; with an encoder, what it gives and an answer fed to the decoder. Each of WhisperKit's packages is
    compared by itself, behind what transformers gives. Pictures and sounds go through the
    checkpoint's own processor where the package takes them as they are.

    Args:
        package: a package that milbuild built.
        source: the checkpoint it was built from: folder, file, or hub id (`revision`: branch, tag or commit).
        seed: of the random token ids or pictures.
        encoder: the package of `encode`, where `package` has `decode` only.

    Returns:
        a `Report`: `passed`, a row of figures per case, backend and output, the landmark that differs most, and texts
        (`str`, `as_dict`).

    Raises:
        milbuild.Error: where torch is missing, or package and checkpoint do not belong together.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise missing_torch("validate") from None
    from milbuild.model import Model
    from milbuild.validation.compare import compare

    model: Any = package if isinstance(package, Model) else Model(Path(package))
    other: Any = encoder if encoder is None or isinstance(encoder, Model) else Model(Path(encoder))
    return compare(model, source, revision, seed, core_ml=sys.platform == "darwin", encoder=other)
