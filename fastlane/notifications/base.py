"""The interface of a way to tell somebody; one file and one line of ``server.py`` for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastlane.model import Event


@dataclass(frozen=True, slots=True)
class Message:
    """What one receiver is told, once. Everything in it may be seen by the receiver."""

    id: str
    """The same whenever it is tried again, so that a receiver can drop a double."""
    event: Event
    target: str
    """The URL or the address."""
    created_at: float
    """When the event happened, in unix seconds."""
    data: Mapping[str, Any]
    """The execution as the API shows it, with ``jobId``, ``taskId``, their URLs, and the job's
    ``metadata.custom``; secrets are redacted already."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The submitter's own headers of a webhook."""


class Sender(ABC):
    """Sends messages by one channel. Its methods are called on the event loop, many at once."""

    @property
    @abstractmethod
    def timeout_seconds(self) -> float:
        """How long :meth:`send` takes at most."""

    @abstractmethod
    async def send(self, message: Message) -> int:
        """Hand *message* to its receiver, and return the status code that it took it with.

        When this returns, the receiver has it. When it raises, the receiver may have it all the
        same (its answer was lost, say). May be cancelled at any point.

        :raises DeliveryFailed: it did not answer in time, or refused it.
        """
