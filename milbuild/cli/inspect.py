"""`milbuild inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from milbuild.cli.arguments import Json, Package, sizes
from milbuild.cli.console import note, show
from milbuild.errors import Error


def inspect(
    package: Package,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="Show how this package differs from PACKAGE.", show_default=False),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the functions: graph.svg, .png, .pdf.", show_default=False)
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=1,64",
            help="Of an input whose shape is flexible, for the figures of a call; repeatable. (default: the description's)",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in a package, or how two differ.

    Functions with their inputs, outputs, states and operations, weights, metadata; multiply-accumulates and bytes moved of
    a call, and what the memory of some chips allows for. Any ML Program; docs/inspect.md says what counts.

    Exit code 0, whether or not two packages differ. 2: could not be read.
    """
    shapes = sizes(shape or [])
    if other is not None and (graph is not None or shapes):
        option = "--shape" if graph is None else "--graph"
        raise Error(
            f"{option} is for one package, and there are two",
            f"Give each by itself: milbuild inspect {package} {option} ...",
        )
    from milbuild.cli import imports

    imports.prepare()
    from milbuild import inspection

    if graph is not None:
        from milbuild.io.plots import check_plot

        check_plot(graph, "a graph")
    found = inspection.inspect(package, shapes) if other is None else inspection.compare(package, other)
    show(found.as_dict() if as_json else found)
    if graph is not None:
        from milbuild.inspection.drawing import draw

        draw(package, graph, shapes)
        note(f"Wrote {graph}")
