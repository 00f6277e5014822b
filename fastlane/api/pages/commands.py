"""What to type to do the same without a browser."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from fastlane.api import texts
from fastlane.api.schemas.responses import Execution, Job
from fastlane.encoding import to_json
from fastlane.image import DEFAULT_TAG, ImageReference
from fastlane.notifications.registry import channels

_DEFAULTS: Mapping[str, Any] = {
    "timezone": "UTC",
    "overlap": "allow",
    "maxWaiting": 1,
    "retries": 0,
    "rerunWhenLost": False,
}


def payload_of(job: Job) -> dict[str, Any]:
    """What to send for a job like *job*. Its secrets stay ``***``, which the server fills in."""
    about = cast("Mapping[str, Any]", job["metadata"])
    found = {
        "image": job["image"],
        "command": job["command"],
        "envs": about["envs"],
        "metadata": about["custom"],
        "resources": {key: one for key, one in about["resources"].items() if one is not None},
        **{key: about[key] for key in ("cron", "timezone", "overlap", "maxWaiting", "retries")},
        **{key: about[key] for key in ("timeout", "pullPolicy", "rerunWhenLost")},
        "additionalDNSEntries": about["additionalDNSEntries"],
        "backoff": about["backoff"] if about["retries"] else {},
        **{one.key: _filled(about.get(one.key) or {}) for one in channels()},
    }
    image = ImageReference.parse(job["image"])
    if about["pullPolicy"] == ("always" if image.pinned_tag == DEFAULT_TAG else "missing"):
        del found["pullPolicy"]
    for key in ("startAt", "expiration"):
        if about[key] is not None:
            found[key] = texts.seconds_of(about[key])
    return {
        key: str(value) if key in ("overlap", "pullPolicy") else value
        for key, value in found.items()
        if value not in (None, {}, _DEFAULTS.get(key))
    }


def _filled(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """*wanted* without what is empty or off."""
    return {key: value for key, value in wanted.items() if value}


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
