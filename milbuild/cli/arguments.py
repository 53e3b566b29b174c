"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from milbuild.errors import Error

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A checkpoint: folder, .safetensors file, or hub id (openai-community/gpt2)."
    ),
]
Package = Annotated[Path, typer.Argument(metavar="PACKAGE", help="A .mlpackage folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)]


def sizes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        try:
            found[name] = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            raise Error(f"--shape is {text!r}", "Write the input and its sizes: --shape input_ids=1,64") from None
        if min(found[name]) < 1:
            raise Error(f"--shape is {text!r}; a size is at least 1")
    return found
