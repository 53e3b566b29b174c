"""`milbuild validate`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from milbuild.cli.arguments import Json, Package, Revision, Source
from milbuild.cli.console import note, show, stages
from milbuild.errors import Error


def validate(
    package: Package,
    source: Source,
    task: Annotated[
        str | None,
        typer.Option(
            help="What a package is for that milbuild did not build. See `milbuild list`.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Words for its tokenizer, instead of random token ids.", show_default=False),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An image, instead of random ones; repeatable.", show_default=False),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Audio, instead of random samples: speech.wav", show_default=False),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(metavar="PACKAGE", help="That of encode, where PACKAGE has decode only.", show_default=False),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest error of an output that passes, over its range. (default: 1e-5 for float32, more with a state)",
            show_default=False,
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Least PSNR of an output that passes, in dB. (default: 55 for float16, 40 on Core ML itself)",
            show_default=False,
        ),
    ] = None,
    compute_units: Annotated[
        str | None,
        typer.Option(
            metavar="all|cpu_only|cpu_and_gpu|cpu_and_ne",
            help="What Core ML may run on. (macOS; default: each but all)",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="coreai", help="Translate it to Core AI, too, and run that in Apple's executor.", show_default=False
        ),
    ] = None,
    revision: Revision = None,
    seed: Annotated[int, typer.Option(help="Of random token ids, images and audio.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Plot error and magnitude at each module output: drift.png, .svg.", show_default=False
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a package with its checkpoint in PyTorch.

    The reference is transformers' model, in eager float32. A package that milbuild did not build needs its task:

    \b
      milbuild validate traced.mlpackage bert-base-uncased --task fill-mask

    Exit code 0: passed. 1: compared and failed. 2: could not compare.
    """
    if as_json and markdown:
        raise Error("--json and --markdown are two ways to print one result", "Choose one of them.")
    words = None if text is None else _read(text)
    _units(compute_units)
    from milbuild.cli import imports

    imports.prepare()
    import milbuild

    if plot is not None:
        from milbuild.io.plots import check_plot

        check_plot(plot)
    with stages() as tell:
        report = milbuild.validate(
            package,
            source,
            task=task,
            text=words,
            image=image,
            audio=audio,
            encoder=encoder,
            max_error=max_error,
            min_psnr=min_psnr,
            compute_units=compute_units,
            backend=backend,
            revision=revision,
            seed=seed,
            progress=tell,
        )
    if markdown:
        print(report.markdown())
    else:
        show(report.as_dict() if as_json else report)
    if plot is not None:
        report.plot(plot)  # last: a disk that has no room for it does not take the result away
        note(f"Wrote {plot}")
    if not report.passed:
        raise typer.Exit(1)


def _read(path: Path) -> str:
    """The words of a file. Raises `Error`."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise Error(f"{path} cannot be read: {reason}") from error


def _units(name: str | None) -> str:
    """The compute units that were asked for. Raises `Error` where nothing would run on them."""
    if name is not None and sys.platform != "darwin":
        hint = "Leave it out: milbuild's runtime predicts here, on the CPU."
        raise Error("--compute-units is for Core ML, which runs on macOS only", hint)
    return name or "all"
