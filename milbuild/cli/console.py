"""What commands print: results to stdout, notes and progress to stderr."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any


def show(value: Any) -> None:
    if isinstance(value, dict):
        print(json.dumps(value, indent=2), flush=True)
        return
    from rich.console import Console

    # A table is data: beside a terminal it keeps its full width.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(value)


def note(text: str) -> None:
    print(text, file=sys.stderr)


def status(text: str) -> Any:
    return stderr().status(f"{text} ...")


@contextlib.contextmanager
def stages() -> Iterator[Any]:
    """Shows on a terminal what is being done, how much is done, and how long it has taken."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=stderr(), transient=True) as progress:
        bar = progress.add_task("loading", total=1.0)
        yield lambda doing, share: progress.update(bar, description=doing, completed=share)


def stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def remarks(written: Any) -> list[str]:
    """What has to be said beside the text of a stream or a transcript, which goes to stderr, a line each."""
    said = [each for each in (written.remark, written.undone) if each is not None]
    for each in said:
        note(f"note: {each}")
    return said


def stream_text(prompt: str, stream: Any) -> None:
    """Prints the prompt with what is written after it, or the answer to it alone."""
    if not stream.session.plan.apart:
        sys.stdout.write(prompt)
    for piece in stream:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    speed = stream.speed()
    note(f"{speed['prompt_tokens']} tokens of prompt at {speed['prompt_tokens_per_second']:,.0f} a second, "
          f"{len(stream.tokens)} new ones at {speed['tokens_per_second']:,.0f} a second")  # fmt: skip
