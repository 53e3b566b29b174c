"""Folders that become packages in one step: made next to their target, exchanged with what is there, and never left over.

A process that is killed cannot clean up. The lock on its folder goes with it, so that the next one that writes into the same
folder, whatever package, recognises it as abandoned, and removes it; one that another process is still writing is left alone.
Those of other machines, on a shared drive, are left alone until they have not been written to for a day.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from milbuild.errors import Error
from milbuild.io import cleanup

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
RENAME_SWAP = 2  # macOS' sys/stdio.h
# What file systems and kernels answer that cannot exchange two names.
UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
KEPT = "Only a package, or an empty folder, is replaced: move it away, or choose another name."
# The file that tells a package from any other folder.
MARKS = {".mlpackage": "Manifest.json", ".aimodel": "main.mlirb"}
FORGOTTEN = 24 * 3600  # seconds without a write after which another machine's process is considered dead


class Folder:
    """A new folder beside `target`, which is removed at the end with what is in it then: `with Folder(target) as made`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path, self._lock = _unused(target), -1

    def __enter__(self) -> Path:
        _sweep(self.target.parent)
        try:
            self._make()
        except BaseException:
            self._leave()
            raise
        return self.path

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        except BaseException:  # Ctrl-C in a process that has no handler of ours
            self._leave()
            raise

    def _make(self) -> None:
        while True:
            cleanup.expect(self.path, self._remove)
            self.path.mkdir()  # which fails where the folder above does not exist
            # Before it is locked another process may take it for abandoned.
            with contextlib.suppress(FileNotFoundError):
                self._lock = os.open(self.path, os.O_RDONLY)
                with contextlib.suppress(
                    OSError
                ):  # some file systems have no locks; then no other process takes one either
                    fcntl.flock(self._lock, fcntl.LOCK_SH)
                if os.path.lexists(self.path):
                    return
            self._leave()
            self.path = _unused(self.target)

    def _remove(self) -> None:
        _undo(self.path, self.target)

    def _leave(self) -> None:
        self._remove()
        cleanup.settled(self.path)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def check(target: Path, replace: bool) -> None:
    """Raises `Error` where a new package must not replace what is at `target`."""
    if not os.path.lexists(target):
        return
    if not replace:
        raise Error(f"{target} exists", "Add --force (in Python: replace=True) to replace it.")
    if not target.is_dir():
        raise Error(f"{target} is not a package but a {'link to nothing' if target.is_symlink() else 'file'}", KEPT)
    mark = MARKS.get(target.suffix, MARKS[".mlpackage"])
    if not (target / mark).is_file() and os.listdir(target):
        raise Error(f"{target} is not a package: it has no {mark}, and other files are in it", KEPT)


def put(made: Path, target: Path, replace: bool) -> None:
    """Gives `made` the name `target`; a package that is there takes the name of `made`, and there is no moment without
    either. Raises what `check` does."""
    while True:
        try:
            check(target, replace)
            return _exchange(made, target) if os.path.lexists(target) else os.rename(made, target)
        except OSError as error:
            # Another process came or went between the look and the step.
            changed = error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
            if not (changed or (error.errno == errno.ENOTDIR and os.path.lexists(target))) or not made.exists():
                raise


def _unused(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_host()}{secrets.token_hex(4)}.partial")


@functools.cache
def _host() -> str:
    """Four letters for this machine: others may share its disks, and not every network drive passes locks on."""
    return hashlib.blake2b(os.uname().nodename.encode(), digest_size=2).hexdigest()


def _exchange(one: Path, other: Path) -> None:
    """Two names change places, in one step where the file system can."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    elif sys.platform == "darwin":
        failed = library.renamex_np(*names, RENAME_SWAP)
    else:
        return _exchange_in_steps(one, other)
    number = ctypes.get_errno()
    if failed and number in UNABLE:
        _exchange_in_steps(one, other)
    elif failed:
        raise OSError(number, os.strerror(number))


def _exchange_in_steps(one: Path, other: Path) -> None:
    """The same by renaming. Who is killed after the first step leaves what `_sweep` puts back."""
    os.rename(other, _aside(one))
    try:
        os.rename(one, other)
    finally:
        _put_back(_aside(one), other)


def _aside(made: Path) -> Path:
    return made.with_suffix(".replaced")


def _undo(made: Path, target: Path) -> None:
    """Leaves nothing of what was begun, and what was at `target`."""
    _put_back(_aside(made), target)
    _remove(made)


def _put_back(aside: Path, target: Path) -> None:
    """Gives what was moved aside its name again, if nothing else has it by now."""
    if os.path.lexists(aside) and not os.path.lexists(target):
        with contextlib.suppress(OSError):
            os.rename(aside, target)
            return
    if os.path.lexists(target):
        _remove(aside)


def _sweep(folder: Path) -> None:
    """Removes what killed processes have left in a folder, and puts back what they had moved aside."""
    pattern = re.compile(r"\.(.+\.(?:mlpackage|aimodel))\.([0-9a-f]{4})[0-9a-f]{8}\.(partial|replaced)")
    try:
        left = {entry.with_suffix(".partial") for entry in folder.iterdir() if pattern.fullmatch(entry.name)}
    except OSError:
        return  # the next process that writes there reports it
    for made in sorted(left):
        found = pattern.fullmatch(made.name)
        assert found is not None
        with contextlib.suppress(OSError), _abandoned(made, found[2]):
            _undo(made, folder / found[1])


@contextlib.contextmanager
def _abandoned(made: Path, host: str) -> Iterator[None]:
    """Raises `OSError` while another process has the folder: it holds a lock, or, on another machine, whose locks may not be
    seen here, it may be at work on it."""
    if host != _host() and time.time() - _touched(made) < FORGOTTEN:
        raise BlockingIOError
    if not made.is_dir():
        yield
        return
    lock = os.open(made, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def _touched(made: Path) -> float:
    """When something in the folder, or in what was moved aside for it, was last written."""
    places = [place for one in (made, _aside(made)) for place in (one, *one.rglob("*"))]
    return max((place.lstat().st_mtime for place in places if os.path.lexists(place)), default=0.0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
