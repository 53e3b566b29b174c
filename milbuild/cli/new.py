"""`milbuild new`."""

from typing import Annotated

import typer


def new(
    model_type: Annotated[
        str,
        typer.Argument(metavar="MODEL_TYPE", help="The model_type of a config.json, as transformers has it (gptj)."),
    ],
) -> None:
    """Begin a new model type, in a checkout of milbuild.

    Writes what transformers knows of it: tables, heads and a test row. What is left to write are methods.
    """
    from milbuild.authoring import files

    root = files.CHECKOUT
    written = files.write(model_type, root)
    for path in written:
        print(path.relative_to(root))
    print(
        f"\nWrite the methods of {written[0].relative_to(root)}, which raise NotImplementedError, then:\n"
        f"  python -m tests.helpers.operations {model_type}\n  make family F={model_type}"
    )
