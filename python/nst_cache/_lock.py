"""The reader's lock of a cache's folder: nobody writes it while it is open."""

from __future__ import annotations

import errno
import os
import stat
import time
import warnings
from io import BufferedReader
from pathlib import Path

from ._errors import CacheError

_TRIES = 20
_PAUSE = 0.01


def _open_regular(path: Path) -> BufferedReader:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    file = open(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise CacheError(f"{path}: expected a file, found something else")
    return file


def _is_current(file: BufferedReader, path: Path) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), now)


def shared(folder: Path) -> BufferedReader | None:
    """Takes the shared lock. None if there is none to take: a copy without `.lock`, a file system
    without locks, or a system other than POSIX."""
    try:
        import fcntl
    except ImportError:
        return None
    path = folder / ".lock"
    for _ in range(_TRIES):
        try:
            file = _open_regular(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            time.sleep(_PAUSE)
            continue
        except OSError as error:
            file.close()
            if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                warnings.warn(f"{folder}: read without a lock: {error}", stacklevel=4)
                return None
            raise CacheError(f"{path}: cannot be locked: {error}") from error
        if _is_current(file, path):
            return file
        file.close()
    try:
        line = path.read_text("utf-8", "replace").partition("\n")[0][:512]
    except OSError:
        line = ""
    who = "".join(c for c in line if c.isprintable()) or "another process"
    raise CacheError(f"{folder}: in use by {who}", "wait until that ends")


def check(file: BufferedReader | None, folder: Path) -> None:
    """Checks that the folder is still the one that was locked."""
    if file is not None and not _is_current(file, folder / ".lock"):
        raise CacheError(f"{folder}: was replaced while it was opened", "open it again")
