"""`milbuild lint`."""

from typing import Annotated

import typer

from milbuild.cli.arguments import Json, Package
from milbuild.cli.console import show


def lint(
    package: Package,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|gpu|ane|all",
            help="Ask the rules of this unit too, or of each (all); ane is the Neural Engine. "
            "(default: only rules that hold whatever unit runs it, those that a build asks)",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold a package against what is known of Core ML and its units.

    Any ML Program, whoever made it. What is said of one unit is likely, not certain: nobody publishes what the Neural
    Engine runs. docs/lint.md has the rules.

    Exit code 0: no errors. 1: errors. 2: could not be read.
    """
    from milbuild.cli import imports

    imports.prepare()
    from milbuild.linting import lint as check

    report = check(package, unit)
    show(report.as_dict() if as_json else report)
    if not report.passed:
        raise typer.Exit(1)
