"""The command line: `milbuild build | validate | generate | inspect | lint | profile | list | demo`.

Data goes to stdout, progress and notes to stderr. Exit codes: 0 done, 1 compared and failed, 2 could not, 128 and the number of a
signal (130 for Ctrl-C) when it was told to end.
"""

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone takes most of the time until Ctrl-C is listened to
    from typing import Any, NoReturn

__all__ = ["main"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> "NoReturn":
    """Runs the command line and ends the process."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background job ignores Ctrl-C
            signal.signal(number, _end)
    _open_streams()
    from milbuild.errors import Error

    code = 2
    try:
        from milbuild.cli.app import run

        code = run()
        sys.stdout.flush()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # `milbuild list | head -1`
        code = 128 + signal.SIGPIPE
    except OSError as error:  # the system's word on a file or on standard output: a full disk, a missing right
        at = "" if error.filename is None else f": {error.filename}"
        print(f"error: {error.strerror or error}{at}", file=sys.stderr)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # Python would try again at its end, and complain.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
    sys.exit(code)


def _open_streams() -> None:
    """Gives a standard stream that was closed to nobody: a file that is opened next would take its number and its output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 -- as long as the process


def _end(number: int, frame: "Any") -> None:
    """Ends the process at once, and leaves nothing half-written behind. Exceptions would unwind it, too, but for those that are
    raised where Python calls back: in a destructor they are printed and forgotten, and the command would go on."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # whoever is impatient does not stop the tidying up
    # Nothing is imported here, in the middle of whatever import this may be.
    remove_all = getattr(sys.modules.get("milbuild.io.cleanup"), "remove_all", None)
    if remove_all is not None:
        remove_all()
    name = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    text = f"\nerror: {name}; nothing half-written was left behind\n"
    if os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        text = f"\r\x1b[2K\x1b[?25h{text}"  # away with a line of progress, and back with the cursor
    try:
        os.write(2, text.encode())  # not through sys.stderr, in the middle of whose write this may be
    finally:  # whatever becomes of the message
        os._exit(128 + number)
