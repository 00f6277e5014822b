"""What can go wrong: one tree of exceptions, whose messages are sentences for people.

::

    ClientError
    ├── BadAddress           the URL of the server cannot be used
    ├── Unreachable          no answer, also after the retries
    ├── UnexpectedAnswer     the answer is not one of a fastlane server
    ├── Refused              the server answered with an error status
    │   ├── BadRequest       400, 422: something in the request is wrong
    │   ├── Unauthorized     401: credentials are missing or wrong
    │   ├── Forbidden        403: these credentials may not do that
    │   ├── NotFound         404
    │   ├── Conflict         409
    │   ├── TooManyRequests  429
    │   └── ServerError      500 and above
    │       └── Unavailable  502, 503, 504
    ├── NothingToFollow      the job has not run and is not scheduled
    ├── NotFinished          the time to wait is over
    └── JobFailed            the job ended, and not with exit code 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlane_client.records import Execution


class ClientError(Exception):
    """The base of all errors of this library."""


class BadAddress(ClientError, ValueError):
    """A URL cannot be used."""


class Unreachable(ClientError):
    """The server gave no answer, or broke it off, also after the retries."""


class UnexpectedAnswer(ClientError):
    """What answered does not answer like fastlane."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a payload."""

    pointer: str
    """RFC 6901 JSON pointer, such as ``/cron``. "" is the whole payload."""
    message: str


class Refused(ClientError):
    """The server answered with an error status; the message is its own text."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: str | None = None,
        faults: Sequence[Fault] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status code."""
        self.detail = detail
        """The server's sentence."""
        self.faults = tuple(faults)
        """All that is wrong with the payload."""
        self.request_id = request_id
        """The id of the request in the server's log."""
        self.retry_after = retry_after
        """Seconds after which the server asks to be called again."""


class BadRequest(Refused):
    """400 or 422: something in the request is wrong."""


class Unauthorized(Refused):
    """401: credentials are missing or wrong."""


class Forbidden(Refused):
    """403: these credentials may not do that."""


class NotFound(Refused):
    """404: it is not there, or not any more."""


class Conflict(Refused):
    """409: the state of what is there does not allow it."""


class TooManyRequests(Refused):
    """429: too many requests or jobs; ``retry_after`` says when to try again."""


class ServerError(Refused):
    """500 and above: the server failed."""


class Unavailable(ServerError):
    """502, 503, 504: the server cannot answer now."""


class NothingToFollow(ClientError):
    """The job has not run and is not scheduled."""


class NotFinished(ClientError, TimeoutError):
    """The job was not final within the time to wait. It continues."""


class JobFailed(ClientError):
    """The job ended, retries included, and not with exit code 0."""

    def __init__(self, message: str, *, execution: Execution, log_tail: str) -> None:
        super().__init__(message)
        self.execution = execution
        """The last attempt."""
        self.log_tail = log_tail
        """The last lines of its log: stdout, ``-=-``, stderr."""

    @property
    def exit_code(self) -> int | None:
        """The exit code; None where the program did not end by itself."""
        return self.execution.exit_code

    @property
    def reason(self) -> str | None:
        """Why it ended, such as ``exit-code``, ``oom``, ``stopped`` or ``pull-failed``."""
        return self.execution.reason


_BY_STATUS: dict[int, type[Refused]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: BadRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def class_of(status: int) -> type[Refused]:
    """The exception for an error status."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else Refused)
