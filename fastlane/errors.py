"""Every exception that fastlane raises on purpose.

::

    FastlaneError
    ├── ConfigError              an option is unknown or malformed; nothing was started
    ├── NotFound                 a task, job or execution that is not there
    ├── Rejected                 a request that cannot be carried out as things are (HTTP 400)
    │   └── KeyReused            an idempotency key of another request (HTTP 422)
    ├── StorageError
    │   ├── StorageUnavailable   the store is away; try again later (HTTP 503)
    │   ├── StorageInUse         another server owns the embedded data directory
    │   └── CompareFailed        the record is no longer what the writer believed
    ├── DeliveryFailed           a receiver did not accept a notification
    └── ExecutorError
        ├── HostUnavailable      the host did not answer; the run may or may not exist
        │   ├── RunOutOfReach    the host is well, what has the run for it is away
        │   └── NotStarted       the host refused to start the run, which is as it was created
        ├── PullFailed           the image cannot be had
        ├── StartFailed          the run was created but could not be started
        └── RunVanished          the run is no longer on its host
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlane.model import Execution


class FastlaneError(Exception):
    """Root of the tree; the message is one sentence for people."""


class ConfigError(FastlaneError):
    """An option is unknown or malformed. The message names the option, the value and the remedy."""


class NotFound(FastlaneError):
    """A task, job or execution that is not there. The message names it."""


class Rejected(FastlaneError):
    """A well-formed request that cannot be carried out as things are; nothing was changed."""


class KeyReused(Rejected):
    """An idempotency key that was used before, for another request. Nothing was changed."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f'Idempotency-Key "{key}" was used for another request of this task; use a new key.'
        )


class StorageError(FastlaneError):
    """Something in the storage."""


class StorageUnavailable(StorageError):
    """The store is away or refused the write. Nothing is known to be written; try again later."""


class StorageInUse(StorageError):
    """Another server owns the embedded data directory."""


class CompareFailed(StorageError):
    """A compare-and-set found another record than the writer believed.

    :param current: the record as it is now, or None when it is gone.
    """

    def __init__(self, message: str, current: Execution | None = None) -> None:
        super().__init__(message)
        self.current = current


class DeliveryFailed(FastlaneError):
    """A receiver did not accept a notification. The message repeats nothing that a URL answered.

    :param status: the status code that it answered, if any.
    :param final: trying again makes no sense, whatever retries are left.
    """

    def __init__(self, message: str, status: int | None = None, *, final: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.final = final


class ExecutorError(FastlaneError):
    """Something on a host."""


class HostUnavailable(ExecutorError):
    """The host did not answer, or failed in a way that is the host's own.

    Whether the call took effect is unknown: look for the run before deciding anything else.
    """

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"host {host}: {message}")
        self.host = host


class RunOutOfReach(HostUnavailable):
    """The host answers, but the machine behind it that has the run is away.

    The run is waited for as with a host that is away; other runs on the host do well.
    """


class NotStarted(HostUnavailable):
    """The host refused to start the run, for reasons of its own; the run is as it was created."""


class PullFailed(ExecutorError):
    """The image cannot be had: it does not exist, or the registry refused it."""


class StartFailed(ExecutorError):
    """The run was created but could not be started, as when its command does not exist.

    :param exit_code: what the engine reports for it (126 or 127), or None.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunVanished(ExecutorError):
    """The run is no longer on its host: somebody removed it."""
