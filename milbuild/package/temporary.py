"""Folders that become packages in one step: made beside their place, exchanged with what stands there, and never left behind.

A process that is killed cannot clean up. The lock on its folder goes with it, so that the next one that writes to the same
place knows the folder for abandoned, and removes it; one that another process is still writing is left alone.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
RENAME_SWAP = 2  # macOS' sys/stdio.h
# What file systems and kernels answer that cannot exchange two names.
UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which is removed at the end with what is in it then."""
    _sweep(target)
    made, lock = _locked(target)
    try:
        yield made
    finally:
        _remove(made)
        os.close(lock)


def put(made: Path, target: Path) -> None:
    """Gives `made` the name `target`; what stood there takes the name of `made`, and there is no moment without either."""
    while True:
        try:
            if os.path.lexists(target):
                return _exchange(made, target)
            return os.rename(made, target)
        except OSError as error:
            # Another process came or went between the look and the step.
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY) or not made.exists():
                raise


def _locked(target: Path) -> tuple[Path, int]:
    """(a new folder beside `target`, the descriptor that holds its lock)."""
    while True:
        made = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        made.mkdir()  # which fails where the folder above does not exist
        # Before it is locked another process may take it for abandoned.
        try:
            lock = os.open(made, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # some file systems know no locks; then nobody else takes one either
            fcntl.flock(lock, fcntl.LOCK_SH)
        if os.path.lexists(made):
            return made, lock
        os.close(lock)


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
    aside = _aside(one)
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    with contextlib.suppress(OSError):
        os.rename(aside, one)


def _aside(made: Path) -> Path:
    return made.with_suffix(".replaced")


def _sweep(target: Path) -> None:
    """Removes what killed processes have left beside `target`, and puts back what they had moved aside."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.(partial|replaced)")
    try:
        left = sorted(
            {entry.with_suffix(".partial") for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)}
        )
    except OSError:
        return  # who writes there next is told
    for made in left:
        with contextlib.suppress(OSError), _abandoned(made):
            aside = _aside(made)
            if os.path.lexists(aside) and not os.path.lexists(target):
                os.rename(aside, target)
            _remove(aside)
            _remove(made)


@contextlib.contextmanager
def _abandoned(made: Path) -> Iterator[None]:
    """Raises `OSError` while another process has the folder."""
    if not made.is_dir():
        yield
        return
    lock = os.open(made, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
