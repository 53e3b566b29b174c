"""What must not be left behind, whatever ends the process: half-written packages and pictures, temporary folders.

Who makes one of these says first how it is taken away. An exception passes by those who made it; the command line, which is told
to end by a signal, ends at once and calls them all (an exception that a signal raises is lost where Python calls back: in a
destructor, in a library that catches everything).
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_removals: dict[Path, Callable[[], None]] = {}


def expect(path: Path, remove: Callable[[], None]) -> None:
    """From now on `remove` takes away what may stand at `path`; called before it is made."""
    _removals[path] = remove


def settled(path: Path) -> None:
    """What stood at `path` is gone, or is what it should be."""
    _removals.pop(path, None)


def remove_all() -> None:
    """Takes everything away that is expected, the latest first; what cannot be stays. Imports nothing: it may be called in the
    middle of an import, and what is expected has been made by modules that are there."""
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
