"""Shows ``fastlane healthcheck`` that an instance which listens nowhere is healthy."""

from __future__ import annotations

from pathlib import Path

from fastlane.storage.base import Storage

FILE_NAME = "worker-healthy"
"""In ``DATA_DIR``; its time is that of the last time when all was well."""

# Bounds how old the file of a healthy worker is: several periods, since a check may be slow.
FRESH_SECONDS = 30.0
PERIOD_SECONDS = 5.0


class Pulse:
    """Touches a file for as long as the event loop runs and the storage answers."""

    def __init__(self, storage: Storage, data_dir: Path) -> None:
        self._storage = storage
        self._path = data_dir / FILE_NAME

    async def step(self) -> float:
        """Look at the storage and leave word that it is well.

        :raises StorageUnavailable: it is not.
        """
        parts = await self._storage.check()
        if not any(parts.values()):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch()
        return PERIOD_SECONDS
