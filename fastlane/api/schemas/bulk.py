"""``POST /executions/stop/`` and ``rerun/``: which executions, and what became of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fastlane.api.schemas.json_body import check_items, read_json_object
from fastlane.api.schemas.payload import validated
from fastlane.api.schemas.responses.base import (
    Answer,
    Count,
    ExecutionId,
    ExecutionUrl,
    JobId,
    TaskId,
)
from fastlane.checks import PayloadModel
from fastlane.model import Status

# WATCH.md: bounds the executions of one request.
MOST_EXECUTIONS = 1000
# Bounds one text of a filter.
TEXT_CHARS = 1000

Text = Annotated[str, Field(max_length=TEXT_CHARS)]
Texts = Annotated[list[Text], Field(max_length=100)]


def _number_as_text(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.6f}" if is_number else value


Moment = Annotated[Text, BeforeValidator(_number_as_text, json_schema_input_type=float | str)]


class Bulk(PayloadModel):
    """Which executions: `ids`, or the filters of `GET /executions/`, with lists as arrays."""

    dry_run: bool = Field(description="Only say what would be done. It has no default.")
    expected: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="409 when another number matches."
    )
    ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_EXECUTIONS)] | None = None
    task: Text | None = None
    job: Text | None = None
    status: Texts | None = None
    reason: Texts | None = None
    trigger: Texts | None = None
    farm: Text | None = None
    host: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    q: Text | None = None

    def filters(self) -> dict[str, str]:
        """As the query of the list has them."""
        given: dict[str, Any] = self.model_dump(
            exclude={"dry_run", "expected", "ids"}, exclude_none=True
        )
        return {
            name: ",".join(value) if isinstance(value, list) else value
            for name, value in given.items()
        }


def read_bulk(body: bytes) -> Bulk:
    """:raises Problem: 400 with every error."""
    values = read_json_object(body, "ids or filters, and dryRun")
    check_items(values.values())
    return validated(Bulk, values, [])


class BulkItem(Answer):
    """One of the executions."""

    executionId: ExecutionId
    url: ExecutionUrl
    taskId: TaskId
    jobId: JobId
    status: Annotated[Status, Field(examples=["failed"])]
    """As it is now."""
    changed: bool
    """Whether it was stopped, or run again. In a dry run, whether it would be."""
    newExecutionId: ExecutionId | None
    """Of a rerun."""
    newExecutionUrl: ExecutionUrl | None


class BulkResult(Answer):
    """What was done or, in a dry run, would be."""

    matched: Count
    changed: Count
    executions: list[BulkItem]
