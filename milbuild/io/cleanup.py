"""What must be removed, whatever ends the process: half-written packages and plots, temporary folders.

Code that makes one of these first registers how it is removed. An exception passes through that code; the command line, which
a signal ends, ends at once and calls all registered removals (an exception that a signal raises can be lost where Python calls
back: in a destructor, in a library that catches everything).
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_removals: dict[Path, Callable[[], None]] = {}


def expect(path: Path, remove: Callable[[], None]) -> None:
    """From now on `remove` removes what may be at `path`; called before it is made."""
    _removals[path] = remove


def settled(path: Path) -> None:
    """What was at `path` is gone, or is what it should be."""
    _removals.pop(path, None)


def remove_all() -> None:
    """Removes everything that is registered, the latest first; what cannot be removed stays. Imports nothing: it may be called in
    the middle of an import, and what is registered has been made by modules that are loaded."""
    while _removals:
        _, remove = _removals.popitem()
        try:
            remove()
        except Exception:  # noqa: BLE001 -- the process is ending: the rest still has to go
            continue


def temporary_folder() -> Path:
    """A new folder among the system's temporary files, for `remove`."""
    path = Path(tempfile.gettempdir()) / f"milbuild-{secrets.token_hex(8)}"
    expect(path, lambda: remove(path))
    path.mkdir(mode=0o700)
    return path


def remove(path: Path) -> None:
    """Takes a temporary folder away, with what is in it."""
    shutil.rmtree(path, ignore_errors=True)
    settled(path)
