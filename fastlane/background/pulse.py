"""Shows ``fastlane healthcheck`` that an instance which listens nowhere is healthy."""

from __future__ import annotations

from pathlib import Path

from fastlane.storage.base import Storage

FILE_NAME = "worker-healthy"
"""In ``DATA_DIR``; its modification time is that of the last successful check."""

# Bounds how old the file of a healthy worker is: several periods, since a check may be slow.
FRESH_SECONDS = 30.0
PERIOD_SECONDS = 5.0


class Pulse:
    """Touches a file for as long as the event loop runs and the storage answers."""

    def __init__(self, storage: Storage, data_dir: Path) -> None:
        self._storage = storage
        self._path = data_dir / FILE_NAME

    async def step(self) -> float:
        """Check the storage, and touch the file if it is healthy.

        :raises StorageUnavailable: it cannot be reached.
        """
        parts = await self._storage.check()
        if not any(parts.values()):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch()
        return PERIOD_SECONDS
