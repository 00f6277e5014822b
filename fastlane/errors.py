"""Every exception that fastlane raises on purpose.

::

    FastlaneError
    ├── ConfigError              an option is unknown or malformed; nothing was started
    ├── NotFound                 a task, job or execution does not exist
    ├── Rejected                 a valid request that the current state does not allow (HTTP 400)
    │   ├── Conflict             it needs another state, or another request (HTTP 409)
    │   │   └── NotFinal         what is to be deleted has executions that are not final
    │   └── KeyReused            an idempotency key of another request (HTTP 422)
    ├── StorageError
    │   ├── StorageUnavailable   the store is unreachable; try again later (HTTP 503)
    │   ├── StorageInUse         another server owns the embedded data directory
    │   ├── HostDrained          the host gets no new executions
    │   └── CompareFailed        the record has changed since it was read
    ├── DeliveryFailed           a receiver did not accept a notification
    └── ExecutorError
        ├── HostUnavailable      the host did not answer; the run may or may not exist
        │   ├── RunOutOfReach    the host answers, but the node with the run does not
        │   └── NotStarted       the host refused to start the run; it is still created
        ├── PullFailed           the image could not be pulled
        ├── StartFailed          the run was created but could not be started
        └── RunVanished          the run is no longer on its host
            └── RemovedUnstarted the call that was to start it found it removed
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
    """A task, job or execution does not exist. The message names it."""


class Rejected(FastlaneError):
    """A valid request that the current state does not allow. Nothing was changed."""


class Conflict(Rejected):
    """The current state does not allow it, but another would. Nothing was changed."""


class NotFinal(Conflict):
    """What is to be deleted is, or has, an execution that is not final. Nothing was changed.

    :param what: begins the sentence, such as ``Job "…"``.
    """

    def __init__(self, what: str) -> None:
        verb = "is" if what.startswith("Execution") else "has an execution that is"
        super().__init__(f"{what} {verb} not final; stop it first, or add ?force=true.")


class KeyReused(Rejected):
    """An idempotency key that was used before, for another request. Nothing was changed."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f'Idempotency-Key "{key}" was used for another request of this task; use a new key.'
        )


class StorageError(FastlaneError):
    """Base of all storage errors."""


class StorageUnavailable(StorageError):
    """The store is unreachable or refused the write. The write may or may not have happened."""


class StorageInUse(StorageError):
    """Another server owns the embedded data directory."""


class HostDrained(StorageError):
    """The host is black-listed, so nothing is claimed for it."""

    def __init__(self, host: str) -> None:
        super().__init__(f'Host "{host}" is black-listed.')


class CompareFailed(StorageError):
    """A compare-and-set failed: the record has changed since it was read.

    :param current: the record as it is now, or None if it does not exist any more.
    """

    def __init__(self, message: str, current: Execution | None = None) -> None:
        super().__init__(message)
        self.current = current


class DeliveryFailed(FastlaneError):
    """A receiver did not accept a notification. The message never repeats a response.

    :param status: the status code of the response, if there was one.
    :param final: a retry is pointless, even if retries are left.
    """

    def __init__(self, message: str, status: int | None = None, *, final: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.final = final


class ExecutorError(FastlaneError):
    """Base of all errors of hosts and runs."""


class HostUnavailable(ExecutorError):
    """The host did not answer, or failed for a reason of its own.

    Whether the call took effect is unknown: look for the run before deciding anything else.
    """

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"host {host}: {message}")
        self.host = host


class RunOutOfReach(HostUnavailable):
    """The host answers, but the node with the run is unreachable.

    The run is waited for as if the host were unreachable. Other runs on the host are not affected.
    """


class NotStarted(HostUnavailable):
    """The host refused to start the run for a reason of its own. The run is still created."""


class PullFailed(ExecutorError):
    """The image could not be pulled: it does not exist, or the registry refused it."""


class StartFailed(ExecutorError):
    """The run was created but could not start, for example because its command does not exist.

    :param exit_code: the exit code that the engine reports (126 or 127), or None.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunVanished(ExecutorError):
    """The run is no longer on its host: someone removed it."""


class RemovedUnstarted(RunVanished):
    """Someone removed the run before this call could start it, and it started nothing."""
