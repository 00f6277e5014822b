"""The directory of the database: who owns it, and whether it is still the one that was opened."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import struct
import threading
import uuid
from pathlib import Path

import structlog

from fastlane.errors import StorageInUse, StorageUnavailable
from fastlane.files import make_private, write_new

log = structlog.get_logger(__name__)

DATABASE_NAME = "fastlane.db"
LOCK_NAME = "fastlane.lock"
INSTALLATION_NAME = "installation"
PRIVATE_NAMES = (
    *(f"{DATABASE_NAME}{end}" for end in ("", "-wal", "-shm")),
    LOCK_NAME,
    INSTALLATION_NAME,
)


class Place:
    """``DATA_DIR`` while a server uses it.

    Three locks keep a second server out, and each ends with the process: one on the lock file, one
    on the directory, which holds where the lock file was deleted, and a name that is made of the
    path, which holds where the whole directory was replaced.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / DATABASE_NAME
        self._locks: list[int] = []
        self.claim: socket.socket | None = None
        """Stands for the path; callers are accepted by :meth:`answer`."""
        self._opened: dict[Path, tuple[int, int]] = {}
        self._is_lost = False
        self._mutex = threading.Lock()

    # -- ownership ----------------------------------------------------------------------------

    def take(self) -> None:
        """Make the directory private, and become its only owner.

        :raises StorageInUse: another server is.
        :raises OSError: it cannot be used.
        """
        wider = make_private(self.directory, PRIVATE_NAMES)
        if wider:
            log.warning(
                "DATA_DIR was open to other users of this machine, and is closed to them now",
                data_dir=str(self.directory),
                found=wider,
            )
        try:
            self.claim = _claim_path(self.directory)
            self._locks.append(_open_locked(self.directory, os.O_RDONLY | os.O_DIRECTORY))
            self._locks.append(_open_locked(self.directory / LOCK_NAME, os.O_RDWR | os.O_CREAT))
        except BlockingIOError:
            self.release()
            raise StorageInUse(
                f'DATA_DIR "{self.directory}" is in use by another fastlane server; stop that '
                "one, or give this one another DATA_DIR."
            ) from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have it. Safe to repeat."""
        while self._locks:
            os.close(self._locks.pop())
        claim, self.claim = self.claim, None
        if claim is not None:
            claim.close()

    def answer(self) -> None:
        """Accept a caller, who wants to know whose :attr:`claim` this is."""
        if self.claim is not None:
            with contextlib.suppress(OSError):
                self.claim.accept()[0].close()

    # -- presence -----------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on, :meth:`check` compares with what is there at this moment."""
        for path in (self.database, Path(f"{self.database}-wal")):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                self._opened[path] = found.st_dev, found.st_ino

    def check(self) -> None:
        """Return if the files at their paths are the open ones; takes some microseconds.

        :raises StorageUnavailable: they were deleted, moved or replaced, so what is written to the
            open ones may be lost.
        """
        for path, identity in self._opened.items():
            try:
                found = os.stat(path)
            except OSError:
                found = None
            if (
                found is None
                or (found.st_dev, found.st_ino) != identity
                # A database in use is never empty.
                or (path is self.database and found.st_size == 0)
            ):
                raise self._lost(path.name)
        if self._is_lost:
            with self._mutex:
                self._is_lost = False
            log.info("DATA_DIR is back", data_dir=str(self.directory))

    @property
    def is_lost(self) -> bool:
        """Whether the last :meth:`check` failed."""
        return self._is_lost

    def _lost(self, name: str) -> StorageUnavailable:
        with self._mutex:
            is_new, self._is_lost = not self._is_lost, True
        if is_new:
            log.error(
                "DATA_DIR was deleted, moved, emptied or replaced while the server uses it, and "
                "nothing is stored until it is back. Move it back; if it is gone, stop the server, "
                "restore a backup, and start it again.",
                data_dir=str(self.directory),
                file=name,
            )
        return StorageUnavailable(
            f'DATA_DIR was deleted, moved or replaced: its "{name}" is no longer the open one.'
        )

    # -- installation -------------------------------------------------------------------------

    def installation(self, *, in_use: bool) -> str:
        """The id in the file ``installation``, which is made if there is none.

        :param in_use: whether there may be runs with another id, so that none may be made.
        :raises StorageUnavailable: the file is damaged, missing or cannot be read.
        """
        path = self.directory / INSTALLATION_NAME
        remedy = (
            'restore it from a backup, or write into it the label "fastlane.installation" of the '
            "containers that this server has started; if there are none, any 32 hexadecimal digits."
        )
        try:
            if not path.exists():
                if in_use:
                    raise StorageUnavailable(
                        f'"{path}" is missing, and without its id fastlane does not find its '
                        f"containers again: {remedy}"
                    )
                with contextlib.suppress(FileExistsError):
                    write_new(path, uuid.uuid4().hex)
            found = path.read_text(errors="replace").strip()
        except OSError as error:
            raise StorageUnavailable(
                f'"{path}" cannot be used ({error.strerror}): '
                "set DATA_DIR to a directory that the server may write to."
            ) from error
        if not re.fullmatch(r"[0-9a-f]{32}", found):
            raise StorageUnavailable(f'"{path}" is damaged, it holds "{found[:40]}": {remedy}')
        return found


def _open_locked(path: Path, flags: int) -> int:
    """The open, locked file or directory.

    :raises BlockingIOError: another process has it.
    """
    lock = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:
        # NFS does not lock directories; the lock file is there all the same.
        if not flags & os.O_DIRECTORY:
            os.close(lock)
            raise
    return lock


def _claim_path(directory: Path) -> socket.socket | None:
    """An abstract socket (see unix(7)) that stands for the path of *directory*; None without.

    :raises BlockingIOError: another process of this user, or of root, has it.
    """
    name = path_name(directory)
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    claim.setblocking(False)
    try:
        claim.bind(name)
        claim.listen()
    except OSError:
        claim.close()
        if _owner_of(name) in {os.geteuid(), 0}:
            raise BlockingIOError from None
        # Anybody may take the name, so a stranger's does not count.
        return None
    return claim


def path_name(directory: Path) -> str:
    """The name that stands for the path of *directory*."""
    # Two containers may have different directories at the same path.
    mounts = os.stat("/proc/self/ns/mnt").st_ino
    path = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return f"\0fastlane:{mounts}:{path}"


def _owner_of(name: str) -> int | None:
    """The user of the process that listens at *name*; None if nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(name)
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    return int(struct.unpack("3i", credentials)[1])
