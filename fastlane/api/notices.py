"""What notifications say of an execution: made of the same shapes as the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlane.api import shapes
from fastlane.api.executions import read_outputs
from fastlane.model import Execution
from fastlane.storage.base import Storage


class Notices:
    """Describes executions to receivers, with links under one base URL."""

    def __init__(self, storage: Storage, words: Sequence[str], base_url: str) -> None:
        """:param words: names of environment variables that hold one of these are not shown."""
        self._storage = storage
        self._words = words
        self.base_url = base_url

    async def describe(self, execution: Execution) -> Mapping[str, Any]:
        """The execution as it stands now, with the ends of its log."""
        outputs = await read_outputs(self._storage, [execution])
        urls = shapes.Urls(self.base_url)
        return shapes.notice(execution, outputs[execution.id], self._words, urls)
