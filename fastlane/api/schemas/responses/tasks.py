"""Answers about tasks."""

from __future__ import annotations

from fastlane.api.schemas.responses.base import (
    Answer,
    Count,
    JobReference,
    PageKeys,
    TaskId,
    TaskUrl,
    Time,
)


class TaskItem(Answer):
    """A task in a list."""

    taskId: TaskId
    url: TaskUrl
    createdAt: Time
    lastModifiedAt: Time
    jobsCount: Count


class TaskPage(PageKeys):
    """A page of tasks."""

    items: list[TaskItem]


class JobItem(JobReference):
    """A job in a list."""

    createdAt: Time


class TaskDetails(TaskItem, PageKeys):
    """A task with a page of its jobs, newest first."""

    jobs: list[JobItem]
