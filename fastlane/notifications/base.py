"""What a notification channel is: one module, and one line in :mod:`.registry`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastlane.checks import PayloadModel
from fastlane.model import Clock, Event, Execution, Target

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

    timeout_seconds: float
    """How long :meth:`send` takes at most."""
    retries: int = 0
    """How often a failed delivery is tried again when its target does not say."""

    @abstractmethod
    async def send(self, notification: Notification) -> int:
        """Hand *notification* to its receiver, and return the receiver's status code.

        When this returns, the receiver has accepted it. When it raises, the receiver may have it
        all the same (its answer was lost, say). May be cancelled at any point.

        :raises DeliveryFailed: the receiver did not answer in time, or refused it.
        """


class ChannelPayload(PayloadModel):
    """The base of what a payload and a definition hold for a channel; everything has a default."""

    def stored(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)

    def shown(self, secret_words: Sequence[str]) -> dict[str, Any]:
        return self.stored()


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to notify people or programs of executions."""

    name: str
    """What deliveries are marked with, in the storage and in answers."""
    key: str
    """Its key in payloads, stored definitions, job details and the queues of ``/status/``."""
    payload: type[ChannelPayload]
    """What may be at :attr:`key` of a payload: a :class:`~fastlane.model.Subscription`."""
    sender: Callable[[Config, Clock], Sender]
    """Makes the sender that the configuration asks for."""
    shown_target: Callable[[str], str] = str
    """How answers show the address of a delivery."""
    dispatch_key: str | None = None
    """Where an execution's metadata shows the last attempts; None: it does not show them."""
    error_key: str | None = None
    """Where a job's metadata shows the result of :attr:`error`; None: nowhere."""
    error: Callable[[Config], str | None] = lambda config: None
    """Why nothing is sent, if so."""
