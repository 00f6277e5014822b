"""What a notification channel is: one module, and one line in :mod:`.registry`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from fastlane.model import Clock, Event, Execution, Subscription, Target

if TYPE_CHECKING:
    from fastlane.config import Config


@dataclass(frozen=True, slots=True)
class Report:
    """What a notification says of an execution. Everything in it may be seen by the receiver."""

    execution: Execution
    """Its secrets are redacted already."""
    log: str
    """The end of stdout."""
    log_truncated: bool
    error: str
    """The end of stderr, or a sentence of fastlane's where stderr is empty."""
    error_truncated: bool
    url: str
    job_url: str
    task_url: str
    body: bytes
    """All of it, the event and the submitter's own metadata as JSON."""


@dataclass(frozen=True, slots=True)
class Notification:
    """What is sent to one receiver."""

    id: str
    """The same for every attempt, so that a receiver can drop a duplicate."""
    event: Event
    target: Target
    created_at: float
    """When the event happened, in unix seconds."""
    report: Report


class Sender(ABC):
    """Sends notifications over one channel. Called on the event loop, many at once."""

    retries: int = 0
    """How often a failed delivery is tried again whose target does not say."""

    @property
    @abstractmethod
    def timeout_seconds(self) -> float:
        """How long :meth:`send` takes at most."""

    @abstractmethod
    async def send(self, notification: Notification) -> int:
        """Hand *notification* to its receiver, and return the receiver's status code.

        When this returns, the receiver has accepted it. When it raises, the receiver may have it
        all the same (its answer was lost, say). May be cancelled at any point.

        :raises DeliveryFailed: the receiver did not answer in time, or refused it.
        """


class Channel(ABC):
    """A way to notify people or programs of executions."""

    name: ClassVar[str]
    """What deliveries are marked with, in the storage and in answers."""
    key: ClassVar[str]
    """Its key in payloads, stored definitions, job details and the queues of ``/status/``."""
    payload: ClassVar[type[BaseModel]]
    """What may be at :attr:`key` of a payload; everything in it has a default."""
    details: ClassVar[Mapping[str, tuple[Any, Any]]]
    """Types and fields, as of a pydantic model, of what :meth:`metadata` returns."""
    dispatch_key: ClassVar[str | None] = None
    """Where an execution's metadata shows the last attempts; None: it does not show them."""

    @abstractmethod
    def subscription(self, stored: Mapping[str, Any]) -> Subscription:
        """What a job asks for; *stored* is a dump of :attr:`payload` of this or an older version.

        Malformed entries are left out: they were refused on submission, and nothing in a stored
        definition may keep an execution from its end.
        """

    @abstractmethod
    def sender(self, config: Config, clock: Clock) -> Sender:
        """The sender that *config* asks for."""

    def metadata(self, wanted: Subscription | None, config: Config) -> dict[str, Any]:
        """What the details of a job say of this channel."""
        wanted = wanted or self.subscription({})
        return {self.key: wanted.shown(config.env_blacklisted_words)}


def entries(stored: Mapping[str, Any], event: Event) -> list[Any]:
    """The list that *stored* has for *event*; empty where it has none."""
    found = stored.get(event, ())
    return list(found) if isinstance(found, list | tuple) else []
