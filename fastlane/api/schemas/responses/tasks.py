"""Answers about tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastlane.api.schemas.responses.base import (
    Answer,
    Count,
    ExecutionId,
    ExecutionUrl,
    JobReference,
    PageKeys,
    TaskId,
    TaskUrl,
    Time,
)
from fastlane.model import Reason, Status


class LastExecution(Answer):
    """The newest execution."""

    executionId: ExecutionId
    url: ExecutionUrl
    status: Annotated[Status, Field(examples=["done"])]
    reason: Annotated[Reason | None, Field(examples=["exit-code"])]
    exitCode: Annotated[int | None, Field(examples=[0])]
    createdAt: Time
    finishedAt: Time | None


class TaskItem(Answer):
    """A task in a list."""

    taskId: TaskId
    url: TaskUrl
    createdAt: Time
    lastModifiedAt: Time
    jobsCount: Count
    lastExecution: LastExecution | None


class TaskPage(PageKeys):
    """A page of tasks."""

    items: list[TaskItem]


class JobItem(JobReference):
    """A job in a list."""

    createdAt: Time
    lastExecution: LastExecution | None


class TaskDetails(TaskItem, PageKeys):
    """A task with a page of its jobs, newest first."""

    jobs: list[JobItem]
