"""The command line's commands, a file each. Whatever is heavy is imported by the command that needs it."""

import sys
from typing import Annotated, Any

import typer

from milbuild.cli.build import build
from milbuild.cli.demo import demo
from milbuild.cli.generate import generate
from milbuild.cli.inspect import inspect
from milbuild.cli.lint import lint
from milbuild.cli.list import list_
from milbuild.cli.new import new
from milbuild.cli.profile import profile
from milbuild.cli.translate import translate
from milbuild.cli.validate import validate

app = typer.Typer(
    name="milbuild",
    help="Hugging Face transformers to Core ML packages, without tracing, proved against PyTorch on any machine.",
    epilog="Start with: milbuild demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its help is boxed, and takes 0.1 s longer to appear
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)


def run() -> int:
    """Runs the command line and returns its exit code. typer's own way of running it ends with 1 where a pipe was closed."""
    # click's, or since typer 0.27 its own copy of it
    usage: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
    try:
        code = app(standalone_mode=False)
    except usage as error:
        error.show()
        return int(error.exit_code)
    except SystemExit:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # its answer to a closed pipe, with exit code 1
            raise BrokenPipeError from None
        raise
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        from milbuild import __version__

        print(f"milbuild {__version__}")
        raise typer.Exit


for command in (build, validate, generate, translate, inspect, lint, profile, list_, demo, new):
    app.command(name=command.__name__.rstrip("_"))(command)
