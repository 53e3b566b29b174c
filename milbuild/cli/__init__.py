"""The command line: `milbuild build | validate | generate | inspect | list | demo`.

Data goes to stdout, progress and notes to stderr. Exit codes: 0 done, 1 compared and failed, 2 could not.
"""

import signal
import sys

from milbuild.errors import Error

__all__ = ["main"]


def main() -> None:
    """Runs the command line and ends the process."""
    # A process that is told to end unwinds as at Ctrl-C, so that nothing half-written stays on the disk.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import click

        from milbuild.cli.app import app

        try:
            code = app(standalone_mode=False)
        except click.exceptions.Exit as exit_:
            code = exit_.exit_code
        except click.UsageError as error:
            error.show()
            code = 2
        except click.Abort:
            raise KeyboardInterrupt from None
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; nothing half-written was left behind", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        # The reader of our output is gone (| head); Python would complain once more while it closes stdout.
        sys.stderr.close()
        code = 2
    sys.exit(code or 0)
