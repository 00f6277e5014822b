"""Files that are whole or not there after a crash, and directories that only their owner can read.

It needs only the standard library: the supervisors of the process executor import it too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path


def write_new(path: str | Path, text: str) -> None:
    """Make *path* with its whole content, durably.

    :raises FileExistsError: it is there already, and was not touched.
    """
    temporary = f"{path}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        with open(temporary, "x", opener=open_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces what another one made in the meantime.
        os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str | Path) -> None:
    """Make the names in *path* durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_private(path: str, flags: int) -> int:
    """Opener for :func:`open`: a new file can be read by its owner only."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def make_private(directory: Path, names: Iterable[str] = ()) -> list[str]:
    """Make *directory*, or close it and the files *names* in it to other users.

    A directory with the sticky bit, such as ``/tmp``, is everybody's, and stays so.

    :return: what others could read, with its mode, and why that is still so if it is.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found: list[str] = []
    for path in (directory, *(directory / name for name in names)):
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not stat.S_IMODE(mode) & 0o077:
                continue
            found.append(f"{path.name} ({stat.S_IMODE(mode):o})")
            try:
                if mode & stat.S_ISVTX:
                    raise PermissionError(errno.EPERM, "it is shared by all users")
                path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)
            except OSError as error:
                found[-1] += f": {error.strerror}"
    return found
