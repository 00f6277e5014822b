"""The payload of a job, from Python's types to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Seconds = float | timedelta | str
"""Seconds, or a duration such as ``"5m"``."""
Time = float | datetime
"""Unix seconds, or an aware datetime."""


def payload_of(
    image: str | None,
    command: str | Sequence[str] | None,
    *,
    envs: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    start_at: Time | None = None,
    start_in: Seconds | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    overlap: str | None = None,
    max_waiting: int | None = None,
    retries: int | None = None,
    backoff: Mapping[str, float] | None = None,
    timeout: Seconds | None = None,
    expiration: Time | Seconds | None = None,
    notify: Mapping[str, Any] | None = None,
    webhooks: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    pull_policy: str | None = None,
    rerun_when_lost: bool | None = None,
    additional_dns_entries: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The payload; what is None is left to the server.

    :param extra: further keys, as the API names them.
    """
    given = {
        "image": image,
        "command": command if command is None or isinstance(command, str) else list(command),
        "envs": envs,
        "metadata": metadata,
        "startAt": _unix(start_at),
        "startIn": _duration_text(start_in),
        "cron": cron,
        "timezone": timezone,
        "overlap": overlap,
        "maxWaiting": max_waiting,
        "retries": retries,
        "backoff": backoff,
        "timeout": _seconds(timeout),
        "expiration": _seconds(_unix(expiration)),
        "notify": notify,
        "webhooks": webhooks,
        "resources": resources,
        "pullPolicy": pull_policy,
        "rerunWhenLost": rerun_when_lost,
        "additionalDNSEntries": additional_dns_entries,
    }
    return {**{key: value for key, value in given.items() if value is not None}, **(extra or {})}


def _unix(at: Any) -> Any:
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise ValueError("A datetime without a time zone is ambiguous; give one with a tzinfo.")
    return at.timestamp()


def _seconds(value: Seconds | None) -> float | str | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _duration_text(value: Seconds | None) -> str | None:
    seconds = _seconds(value)
    if seconds is None or isinstance(seconds, str):
        return seconds
    # The API has whole seconds; not before the time that was asked for.
    return f"{-int(-seconds // 1)}s"
