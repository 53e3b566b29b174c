"""The command line: `milbuild build | validate | generate | inspect | lint | profile | list | demo`.

Data goes to stdout, progress and notes to stderr. Exit codes: 0 done, 1 compared and failed, 2 could not.
"""

import signal
import sys
from typing import Any, NoReturn

from milbuild.errors import Error

__all__ = ["main"]


class _Interrupted(BaseException):
    """Ctrl-C, or the process was told to end. KeyboardInterrupt would be typer's, with an exit code of its own."""


def main() -> NoReturn:
    """Runs the command line and ends the process."""
    # Both unwind the same way, so that nothing half-written stays on the disk. A shell's background job ignores Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        from milbuild.cli.app import app

        app()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
    except _Interrupted:
        print("\nerror: interrupted; nothing half-written was left behind", file=sys.stderr)
    sys.exit(2)


def _interrupt(number: int, frame: Any) -> None:
    raise _Interrupted
