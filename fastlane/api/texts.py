"""Times, durations and outcomes in words, as the pages show them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400

_REASONS = {
    "oom": "out of memory",
    "stopped": "stopped",
    "timeout": "ran too long",
    "expired": "not started in time",
    "pull-failed": "image not pulled",
    "start-failed": "not started",
    "disk": "disk full",
    "lost": "lost",
}
WORDS = {
    "enqueued": "Waiting",
    "pulling": "Pulling",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "timedout": "Timed out",
    "expired": "Expired",
}
"""What a status is called."""


def seconds_of(at: str | float) -> float:
    """A time of an answer, in either form, as unix seconds."""
    if isinstance(at, (int, float)):
        return at
    return datetime.fromisoformat(at.removesuffix("Z")).replace(tzinfo=UTC).timestamp()


def iso(at: str | float) -> str:
    """A time of an answer as RFC 3339."""
    return datetime.fromtimestamp(seconds_of(at), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    for size, unit, part, inner in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {inner}" if rest else f"{whole // size} {unit}"
    raise AssertionError(whole)


def ago(at: str | float, now: float | None = None) -> str:
    """How long ago *at* is, or how far ahead."""
    seconds = (time.time() if now is None else now) - seconds_of(at)
    size = abs(seconds)
    if size < 5:
        return "now"
    units = ((MINUTE, "s", 1), (HOUR, "min", MINUTE), (2 * DAY, "h", HOUR), (1e12, "d", DAY))
    unit, part = next((unit, part) for below, unit, part in units if size < below)
    count = f"{int(size // part)} {unit}"
    return f"{count} ago" if seconds > 0 else f"in {count}"


def between(start: str | float | None, end: str | float | None) -> str | None:
    """The time from *start* to *end*; None where one of them is not known."""
    return None if start is None or end is None else span(seconds_of(end) - seconds_of(start))


def short(identity: str) -> str:
    """The beginning of an id, by which people tell ids apart."""
    return identity[:8]


def outcome(status: str, reason: str | None, exit_code: int | None) -> str:
    """How an execution ended or stands, in a few words."""
    if status == "failed" and reason == "stopped":
        return "Stopped"
    words = WORDS.get(status, status.capitalize())
    if status != "failed":
        return words
    if reason == "exit-code" and exit_code is not None:
        return f"{words}, exit {exit_code}"
    return f"{words}, {_REASONS[reason]}" if reason in _REASONS else words


def icon(status: str, reason: str | None = None) -> str:
    """The icon of a status."""
    if reason == "stopped":
        return "stopped"
    return "waiting" if status == "enqueued" else status


def command(words: object) -> str:
    """A command as it is shown on one line."""
    if isinstance(words, str):
        return words
    return " ".join(map(str, words)) if isinstance(words, (list, tuple)) else ""


def count(number: int, one: str, more: str | None = None) -> str:
    """*number* with its noun."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


_SENTENCES = {
    "oom": "It used more memory than its limit allows and was killed.",
    "stopped": "It was stopped on request.",
    "timeout": "It ran longer than its timeout and was stopped.",
    "expired": "It could not start before it expired.",
    "pull-failed": "Its image could not be pulled.",
    "start-failed": "Its container could not be started.",
    "disk": "It wrote more than its disk limit allows.",
    "lost": "Its host or container vanished, so its outcome is unknown.",
}


def sentence(status: str, reason: str | None, exit_code: int | None, message: str | None) -> str:
    """Why an execution ended as it did; empty while it runs, and for one that is done."""
    if status not in ("failed", "timedout", "expired"):
        return ""
    known = _SENTENCES.get(reason or "", "")
    if not known and exit_code is not None:
        known = f"The command ended with exit code {exit_code}."
    if message and message not in known:
        return f"{known} {message}".strip()
    return known


def glob(task_id: str) -> str:
    """*task_id* as the filter of a list takes it, where a star is special."""
    return task_id.replace("*", r"\*")


def limit(name: str, value: float) -> str:
    """A limit of a container in words."""
    if name in ("memory", "disk"):
        size, unit = value, "B"
        for following in ("KiB", "MiB", "GiB"):
            if size < 1024:
                break
            size, unit = size / 1024, following
        return f"{name} {size:g} {unit}" if size == int(size) else f"{name} {size:.1f} {unit}"
    return f"{value:g} {name}"


def since(at: str | float) -> float:
    """The seconds since *at*."""
    return round(max(0.0, time.time() - seconds_of(at)), 1)
