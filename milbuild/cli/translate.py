"""`milbuild translate`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from milbuild.cli.arguments import Json, Package
from milbuild.cli.console import note


def translate(
    package: Package,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the asset goes: out.aimodel.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUTPUT.")] = False,
    as_json: Json = False,
) -> None:
    """Translate a Core ML package to Core AI.

    Any ML Program, whoever made it, becomes an asset for iOS and macOS 27, operation by operation: without its source model, and
    without a Mac. What Core AI has no counterpart for is said. It needs coreai-core (the extra coreai).

    \b
    Example:
      milbuild translate gpt2.mlpackage gpt2.aimodel
    """
    from milbuild.cli import imports
    from milbuild.cli.output import checked_output

    start = time.perf_counter()
    target = checked_output(output, force, str(package), ".aimodel")
    imports.prepare()
    from milbuild import coreai

    found = coreai.translate(package)
    found.save(target, replace=force)
    seconds, size = time.perf_counter() - start, sum(path.stat().st_size for path in target.iterdir())
    if as_json:
        written = {"asset": str(target), "functions": found.functions, "notes": found.notes}
        print(json.dumps({**written, "bytes": size, "seconds": round(seconds, 3)}, indent=2))
        return
    for text in found.notes:
        note(text)
    note(f"Translated {package} to {target} in {seconds:.1f} s: {size / 1e6:,.1f} MB; {', '.join(found.functions)}")
