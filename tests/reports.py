"""A report of an execution, for tests of what is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastlane.model import Definition, Event, Execution, Reason, Status, Target
from fastlane.notifications.base import Notification, Report

TASK_URL = "http://fastlane.example/tasks/nightly/"
JOB_URL = f"{TASK_URL}jobs/j/"
EXECUTION = Execution(
    id="36e1b166-7c7a-4a41-a69e-8f78a9ec8128",
    task_id="nightly",
    job_id="5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    definition=Definition.parse("busy:latest", "sh -c 'exit 3'", retries=2),
    farm="default",
    created_at=1768662782.754,
    queue_job_id="q",
    attempt=1,
    status=Status.FAILED,
    reason=Reason.EXIT_CODE,
    exit_code=3,
    started_at=1768662783.0,
    finished_at=1768662784.0,
)
REPORT = Report(
    execution=EXECUTION,
    log="one\ntwo\n",
    log_truncated=False,
    error="oh <no> & so\n",
    error_truncated=False,
    url=f"{JOB_URL}executions/e/",
    job_url=JOB_URL,
    task_url=TASK_URL,
    body=b'{"event": "fails", "status": "failed"}',
)


def notification(
    target: Target, *, execution: Execution = EXECUTION, event: Event = Event.FAILS, **report: Any
) -> Notification:
    """What is sent to *target*; *report* replaces what the report says."""
    return Notification(
        id="ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c",
        event=event,
        target=target,
        created_at=1_700_000_000.0,
        report=replace(REPORT, execution=execution, **report),
    )
