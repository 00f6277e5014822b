"""What to type to do the same without a browser."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import quote

from fastlane.api.schemas.responses import Execution, Job
from fastlane.encoding import to_json


def payload_of(job: Job) -> dict[str, Any]:
    """What to POST for a job like *job*; without its notifications, and secrets stay ``***``."""
    about = job["metadata"]
    found: dict[str, Any] = {"image": job["image"], "command": job["command"]}
    if about["envs"]:
        found["envs"] = dict(about["envs"])
    if about["cron"] is not None:
        found["cron"] = about["cron"]
        if about["timezone"] != "UTC":
            found["timezone"] = about["timezone"]
        if about["overlap"] != "allow":
            found["overlap"] = str(about["overlap"])
    if about["retries"]:
        found["retries"] = about["retries"]
    return found


def curl(job: Job, base: str) -> str:
    """The command that submits a job like *job* to the server at *base*."""
    url = f"{base}/tasks/{quote(job['taskId'], safe='')}/"
    return f"curl {shlex.quote(url)} -d {shlex.quote(to_json(payload_of(job)))}"


def run(task_id: str, one: Execution) -> str:
    """The ``fastlane run`` that does the same as the execution *one*."""
    words = ["fastlane", "run", "--task", task_id]
    for name, value in one["metadata"]["envs"].items():
        words += ["--env", f"{name}={value}"]
    command = one["command"]
    argv = shlex.split(command) if isinstance(command, str) else command
    return shlex.join([*words, one["image"], "--", *argv])
