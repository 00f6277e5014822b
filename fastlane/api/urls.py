"""The URLs in answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from fastlane.model import Execution


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

    def jobs(self) -> str:
        return f"{self.base}/jobs/"

    def executions(self) -> str:
        return f"{self.base}/executions/"

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
