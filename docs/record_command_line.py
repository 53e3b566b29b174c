"""Writes docs/command-line.md from the commands themselves: python docs/record_command_line.py"""

import inspect
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "command-line.md"
HEAD = """\
# The command line

Every command with its arguments and options. Written by `python docs/record_command_line.py`.

Data goes to stdout, progress and notes to stderr. Exit codes: 0 done, 1 compared and failed (lint: errors found), 2 could not,
128 and the number of a signal where one ended the command (130 for Ctrl-C).
"""


def page() -> str:
    """The page as it is to be, whatever version of typer there is."""
    import typer

    from milbuild.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = [HEAD]
    for name, command in group.commands.items():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        usage = " ".join([f"milbuild {name}", *map(_written, arguments), "[OPTIONS]"])
        parts.append(f"\n## milbuild {name}\n\n```\n{usage}\n```\n\n{_text(command.help)}\n\n")
        parts += [f"* `{_written(each)}`: {_said(each)}\n" for each in command.params if each.name != "help"]
    return "".join(parts)


def _text(help_: str) -> str:
    """Paragraphs; what is kept as it is there (behind a \\b), as code."""
    paragraphs = []
    for each in inspect.cleandoc(help_).split("\n\n"):
        kept = each.startswith("\b")
        paragraphs.append(f"```\n{inspect.cleandoc(each[1:])}\n```" if kept else " ".join(each.split()))
    return "\n\n".join(paragraphs)


def _written(parameter: Any) -> str:
    """How it is given: SOURCE, [OTHER], --raw, --lint / --no-lint, --seed INTEGER."""
    if parameter.param_type_name == "argument":
        return parameter.metavar
    names = " / ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    # By click's names of types and by those of typer's own copy of it.
    kinds = {"text": "TEXT", "str": "TEXT", "integer": "INTEGER", "int": "INTEGER", "float": "NUMBER"}
    return f"{names} {parameter.metavar or kinds[parameter.type.name]}"


def _said(parameter: Any) -> str:
    """What --help says of it, with its default."""
    default = parameter.default
    if parameter.param_type_name == "argument" or default in (None, False) or default == []:
        return parameter.help
    return f"{parameter.help} (default: {'yes' if default is True else default})"


if __name__ == "__main__":
    DOCUMENT.write_text(page(), "utf-8")
