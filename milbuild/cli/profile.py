"""`milbuild profile`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from milbuild.cli.arguments import Json, Package, sizes
from milbuild.cli.console import note, show, status
from milbuild.errors import Error


def profile(
    package: Package,
    function: Annotated[
        str | None, typer.Option(help="(default: the package's default function)", show_default=False)
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="declared|float32", help="How the runtime rounds results.")
    ] = "declared",
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=1,64", help="Of an input whose shape is flexible; repeatable.", show_default=False),
    ] = None,
    repeat: Annotated[int, typer.Option(help="Predictions that are timed.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(help="(default: all cores). A function of one token at a time takes one.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a plot: profile.svg, .png, .pdf.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where the runtime spends its time on a package.

    Time, calls and memory by operation type and by module (operations of one name, all layers together). It is the
    time of milbuild's runtime on this machine, not of Core ML on a device.
    """
    shapes = sizes(shape or [])
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise Error(f"threads is {threads}; this machine takes from 1 to {cores}")
    from milbuild.cli import imports

    imports.prepare()
    from milbuild import runtime
    from milbuild.errors import missing_torch

    with status("predicting"):
        model = runtime.load(package, function, precision)
        try:
            import torch
        except ModuleNotFoundError:
            raise missing_torch("milbuild profile") from None
        from milbuild.io.plots import check_plot
        from milbuild.runtime.profiling import examples
        from milbuild.runtime.profiling import profile as measure

        if plot is not None:
            check_plot(plot)
        if threads is not None:
            torch.set_num_threads(threads)
        found = measure(model, examples(model, shapes), repeat)
    show(found.as_dict() if as_json else found)
    if plot is not None:
        found.plot(plot)
        note(f"Wrote {plot}")
