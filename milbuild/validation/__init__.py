"""Numbers against transformers: a saved package compared with the PyTorch model of its checkpoint."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from milbuild.errors import Error, missing_torch

if TYPE_CHECKING:
    import coremltools as ct
    import numpy as np
    from PIL.Image import Image

    from milbuild.model import Model
    from milbuild.validation.report import Report

__all__ = ["validate"]


def validate(
    package: "str | os.PathLike[str] | Model",
    source: str | os.PathLike[str],
    *,
    task: str | None = None,
    text: str | None = None,
    image: "str | os.PathLike[str] | Image | Sequence[str | os.PathLike[str] | Image] | None" = None,
    audio: "str | os.PathLike[str] | np.ndarray | None" = None,
    encoder: "str | os.PathLike[str] | Model | None" = None,
    max_error: float | None = None,
    min_psnr: float | None = None,
    compute_units: "ct.ComputeUnit | str | None" = None,
    backend: str | None = None,
    revision: str | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> "Report":
    """Compares a package with transformers' model of its checkpoint, in eager float32.

    What the package was built for is in its metadata. Without a cache: the shortest, the middle and the longest call, and
    calls with padding where the package takes a mask. With a cache: a sequence in prefill and decode calls, compared with one
    forward pass over the whole; with an encoder, its output and an answer fed to the decoder. Packages that generate text also
    choose a few tokens greedily. Each of WhisperKit's packages is compared by itself, fed with what transformers gives.

    Each case is run by milbuild's runtime in float32 (is the graph right?) and as the package declares its types (what does
    the precision cost?), and on macOS by Core ML on each compute unit.

    Args:
        package: a package that milbuild built, or with `task` any other without states: its inputs are matched by
            transformers' names, its outputs by name, then by shape.
        source: the checkpoint it was built from: folder, file, or hub id (`revision`: branch, tag or commit).
        task: the task of a package that milbuild did not build, by the names of `milbuild list`.
        text: goes through the checkpoint's tokenizer in place of random token ids, repeated where a call takes more.
        image: an image file, a PIL image, or several, for the checkpoint's image processor.
        audio: an audio file, or samples (n,) at 16,000 Hz, for the checkpoint's feature extractor.
        encoder: the package of `encode`, where `package` has `decode` only.
        max_error: the largest error of a passing output, over its range in the reference. By default 1e-5 for float32,
            with a state no less than what rounding keys and values to float16 does to the reference; none for float16.
        min_psnr: the least PSNR of a passing output in dB. By default 55 for float16, none for float32. On Core ML itself
            40, unless max_error or min_psnr is given.
        compute_units: on macOS what Core ML may run on, as for `milbuild.build`; by default cpu_only, cpu_and_gpu and
            cpu_and_ne, one after the other.
        backend: "coreai" translates the package to Core AI besides, in float32, and runs it in Apple's executor: a second
            judge, which proves operations, shapes and the graph, not a device's arithmetic. It needs coreai-core.
        seed: of random token ids, images or audio.
        progress: called with what is being done, and the share of the work (0 to 1) that is done.

    Returns:
        a `Report`: `passed`, a row of figures per case, backend and output, where the error grows, and texts (`str`,
        `as_dict`, `markdown`, `plot`).

    Raises:
        milbuild.Error: where torch is missing, or package and checkpoint do not match.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise missing_torch("validate") from None
    from milbuild.model import Model, units_of
    from milbuild.validation.bar import Bar
    from milbuild.validation.compare import compare
    from milbuild.validation.sample_inputs import SampleInputs

    core_ml = sys.platform == "darwin"
    if compute_units is not None and not core_ml:
        hint = "Leave it out: milbuild's runtime predicts here, on the CPU."
        raise Error("compute_units is for Core ML, which runs on macOS only", hint)
    if backend not in (None, "coreai"):
        raise Error(
            f"backend is {backend!r}; it must be coreai", "milbuild's runtime, and Core ML on macOS, always run."
        )
    if backend is not None:
        from milbuild import coreai

        coreai.needed()
    return compare(
        package if isinstance(package, Model) else Model(Path(package)),
        SampleInputs.of(source, revision, seed, text, image, audio),
        Bar(max_error, min_psnr),
        task,
        encoder if encoder is None or isinstance(encoder, Model) else Model(Path(encoder)),
        core_ml,
        None if compute_units is None else units_of(compute_units).name.lower(),
        backend is not None,
        progress or (lambda text, share: None),
    )
