"""What all answers share: ids, URLs, times and pages.

An answer is a :class:`TypedDict`: a plain dictionary when it is sent, a schema when it is
documented. The functions beside each of them build it from records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from fastlane.api.feed import time_text
from fastlane.model import Execution
from fastlane.storage.base import Page, PageRequest

T = TypeVar("T")

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

_JOB = "5a023792-1445-44e9-8a8b-cfe5ad05d1c6"
_EXECUTION = "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"
_OTHER = "f1b526fa-acbf-4bb0-bd39-67621dee540a"
_TASK_URL = "http://localhost:10000/tasks/test-wrkng/"
_JOB_URL = f"{_TASK_URL}jobs/{_JOB}/"

Time = Annotated[str, Field(pattern=TIME_PATTERN, examples=["2019-01-17T15:13:02.754000"])]
Uuid = Annotated[
    str, Field(pattern=UUID_PATTERN, examples=["f1b526fa-acbf-4bb0-bd39-67621dee540a"])
]
Url = Annotated[str, Field(pattern=r"^https?://", examples=["http://localhost:10000/"])]
TaskId = Annotated[str, Field(min_length=1, max_length=255, examples=["test-wrkng"])]
JobId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_JOB])]
ExecutionId = Annotated[str, Field(pattern=UUID_PATTERN, examples=[_EXECUTION])]
TaskUrl = Annotated[str, Field(pattern=r"^https?://", examples=[_TASK_URL])]
JobUrl = Annotated[str, Field(pattern=r"^https?://", examples=[_JOB_URL])]
ExecutionUrl = Annotated[
    str, Field(pattern=r"^https?://", examples=[f"{_JOB_URL}executions/{_EXECUTION}/"])
]
Count = Annotated[int, Field(ge=0, examples=[2])]
Image = Annotated[str, Field(examples=["ubuntu:latest"])]
Command = Annotated[str | Sequence[str], Field(description="As submitted.", examples=["ls -lah"])]
Envs = Annotated[
    dict[str, str],
    Field(
        description="Values of secret names are shown as ***.",
        examples=[{"SMTP_SERVER": "my-smtp-server", "SMTP_PASSWORD": "***"}],
    ),
]
Address = Annotated[
    str | None, Field(description="Where the request came from.", examples=["127.0.0.1"])
]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Answer(TypedDict):
    """The base of all answers."""


class TaskReference(Answer):
    """A task and its URL."""

    id: TaskId
    url: TaskUrl


class JobReference(Answer):
    """A job and its URL."""

    id: JobId
    url: JobUrl


class ExecutionReference(Answer):
    """An execution and its URL."""

    id: ExecutionId
    url: ExecutionUrl


class PageKeys(Answer):
    """Which page this is. Following ``nextUrl`` costs the same on every page."""

    hasNext: bool
    hasPrev: bool
    nextUrl: Url | None
    prevUrl: Url | None
    page: Annotated[int, Field(ge=1, examples=[1])]
    pages: Count
    perPage: Annotated[int, Field(ge=1, le=100, examples=[10])]
    total: Count


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return quote(text, safe="")


@dataclass(frozen=True, slots=True)
class Urls:
    """Absolute URLs below the one that the client used."""

    base: str
    """``https://host:port``, without a slash at its end."""

    def tasks(self) -> str:
        return f"{self.base}/tasks/"

    def search(self) -> str:
        return f"{self.base}/search/"

    def notifications(self) -> str:
        return f"{self.base}/notifications/"

    def task(self, task_id: str) -> str:
        return f"{self.base}/tasks/{_quoted(task_id)}/"

    def job(self, task_id: str, job_id: str) -> str:
        return f"{self.task(task_id)}jobs/{job_id}/"

    def execution(self, execution: Execution) -> str:
        return self.execution_of(execution.task_id, execution.job_id, execution.id)

    def execution_of(self, task_id: str, job_id: str, execution_id: str) -> str:
        return f"{self.job(task_id, job_id)}executions/{execution_id}/"


def with_query(url: str, query: Mapping[str, object]) -> str:
    """*url* with those of *query* that are not None."""
    pairs = [
        f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None
    ]
    return f"{url}?{'&'.join(pairs)}" if pairs else url


def page_keys(
    page: Page[Any], request: PageRequest, url: str, *, per_page: int, **query: object
) -> PageKeys:
    """:param url: of the listing; *query* is kept in the links."""

    def link(number: int, after: str | None = None) -> str:
        size = None if request.size == per_page else request.size
        return with_query(url, {**query, "page": number, "perPage": size, "after": after})

    pages = -(-page.total // request.size)
    has_next = page.next_cursor is not None
    has_prev = request.number > 1 and page.total > 0
    return {
        "hasNext": has_next,
        "hasPrev": has_prev,
        "nextUrl": link(request.number + 1, page.next_cursor) if has_next else None,
        "page": request.number,
        "pages": pages,
        "perPage": request.size,
        "prevUrl": link(min(request.number - 1, pages)) if has_prev else None,
        "total": page.total,
    }


def extended(answer: T, keys: Mapping[str, Any]) -> T:
    """*answer* with *keys* that its type does not know, such as those of a plug-in."""
    cast(dict[str, Any], answer).update(keys)
    return answer


def task_reference(task_id: str, urls: Urls) -> TaskReference:
    return {"id": task_id, "url": urls.task(task_id)}


def job_reference(task_id: str, job_id: str, urls: Urls) -> JobReference:
    return {"id": job_id, "url": urls.job(task_id, job_id)}


def time_or_none(at: float | None) -> str | None:
    return None if at is None else time_text(at)


def number(value: float) -> int | float:
    """*value* as the reference writes numbers: whole ones without a fraction."""
    return int(value) if value == int(value) else value


def host_and_port(host: str) -> tuple[str, int | None]:
    """The two parts of a host as the reference shows them; a socket has no port."""
    if host.startswith("unix://"):
        return host, None
    parts = urlsplit(host if "://" in host else f"//{host}")
    return parts.hostname or host, parts.port
