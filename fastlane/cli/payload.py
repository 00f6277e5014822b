"""The flags of ``fastlane run`` that make a payload: one for each key of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fastlane.errors import ConfigError

# Bounds a file of --file and --env-file, in bytes.
_FILE_MAX_BYTES = 4 * 1024 * 1024

Texts = list[str] | None


def _text(*names: str, metavar: str, help: str) -> Any:
    return Annotated[str | None, typer.Option(*names, metavar=metavar, help=help)]


def _texts(*names: str, metavar: str, help: str) -> Any:
    return Annotated[Texts, typer.Option(*names, metavar=metavar, help=help)]


FLAGS: Mapping[str, Any] = {
    "env": _texts(
        "--env",
        "-e",
        metavar="NAME=VALUE",
        help="Set an environment variable; NAME alone takes it from this environment.",
    ),
    "env_file": _texts(
        "--env-file", metavar="FILE", help="Set the variables in FILE, one NAME=VALUE on each line."
    ),
    "in_": _text("--in", metavar="DURATION", help="Start later, as in 10s, 2m30s or 4h."),
    "at": _text("--at", metavar="TIME", help="Start at a time, as in 2026-12-24T18:00:00Z."),
    "cron": _text("--cron", metavar="CRON", help="Run on a schedule, as in '*/5 * * * *'."),
    "timezone": _text("--timezone", metavar="ZONE", help="The zone of --cron. Default: UTC."),
    "overlap": _text(
        "--overlap",
        metavar="RULE",
        help="When the last run still runs at a tick: allow, skip or queue. Default: allow.",
    ),
    "max_waiting": Annotated[
        int | None,
        typer.Option(metavar="N", help="How many ticks wait at most with --overlap queue."),
    ],
    "retries": Annotated[
        int | None, typer.Option(metavar="N", help="How often to try again after a failure.")
    ],
    "backoff": _text(
        "--backoff",
        metavar="MIN[:FACTOR[:MAX]]",
        help="The pause before a retry, as in 1s:2:5m: from 1 s, doubled, to 5 minutes.",
    ),
    "timeout": _text("--timeout", metavar="DURATION", help="End the run after this time."),
    "expires": _text("--expires", metavar="TIME", help="Do not start after this time."),
    "cpus": Annotated[float | None, typer.Option(metavar="N", help="How many CPUs it may use.")],
    "memory": _text("--memory", "-m", metavar="SIZE", help="How much memory, as in 512m or 2g."),
    "pids": Annotated[
        int | None, typer.Option(metavar="N", help="How many processes it may have.")
    ],
    "disk": _text("--disk", metavar="SIZE", help="How much it may write to its file system."),
    "pull": _text(
        "--pull", metavar="POLICY", help="When to pull the image: always, missing or never."
    ),
    "rerun_when_lost": Annotated[
        bool, typer.Option("--rerun-when-lost", help="Run again when the host is lost.")
    ],
    "dns": _texts("--dns", metavar="NAME=ADDRESS", help="Add a host name for the container."),
    "webhook": _texts(
        "--webhook",
        metavar="[EVENT=]URL",
        help="Send a webhook on starts, succeeds, fails or finishes. Default: finishes.",
    ),
    "notify": _texts(
        "--notify",
        metavar="[EVENT=]EMAIL",
        help="Send mail on succeeds, fails or finishes. Default: finishes.",
    ),
    "meta": _texts("--meta", metavar="NAME=VALUE", help="Store a value in the job's metadata."),
    "file": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read the other keys of the payload from a JSON or YAML file; - is stdin.",
        ),
    ],
}
"""By parameter; a flag that is not given is None, or False."""

_SAME = {
    "in_": "startIn",
    "cron": "cron",
    "timezone": "timezone",
    "overlap": "overlap",
    "max_waiting": "maxWaiting",
    "retries": "retries",
    "pull": "pullPolicy",
}
_RESOURCES = ("cpus", "memory", "pids", "disk")


def payload_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The payload that the flags make, over what their file holds.

    :raises ConfigError: a flag or the file is malformed; the server checks the values.
    """
    payload = _from_file(given["file"]) if given["file"] else {}
    payload |= {key: given[flag] for flag, key in _SAME.items() if given[flag] is not None}
    for flag, key in (("at", "startAt"), ("expires", "expiration"), ("timeout", "timeout")):
        if given[flag] is not None:
            payload[key] = number_or_text(given[flag])
    envs = {k: v for file in given["env_file"] or () for k, v in _env_file(file)}
    envs |= dict(_env(text) for text in given["env"] or ())
    for key, values in (
        ("envs", envs),
        ("metadata", dict(_pair("--meta", text) for text in given["meta"] or ())),
        ("additionalDNSEntries", dict(_pair("--dns", text) for text in given["dns"] or ())),
        ("resources", {key: given[key] for key in _RESOURCES if given[key] is not None}),
        ("backoff", _backoff(given["backoff"]) if given["backoff"] else {}),
        ("webhooks", _by_event(given["webhook"], lambda url: {"url": url})),
        ("notify", _by_event(given["notify"], str)),
    ):
        if values:
            payload[key] = {**payload.get(key, {}), **values}
    if given["rerun_when_lost"]:
        payload["rerunWhenLost"] = True
    return payload


def envs_of(texts: Iterable[str]) -> dict[str, str]:
    """Of ``--env`` alone.

    :raises ConfigError: one is malformed.
    """
    return dict(_env(text) for text in texts)


def _from_file(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            payload = yaml.safe_load(text)
        else:
            payload = json.loads(text)
    except ValueError as error:
        raise ConfigError(f'--file is "{path}": it is not JSON ({error}).') from error
    except Exception as error:
        raise ConfigError(f'--file is "{path}": it is not YAML ({error}).') from error
    if not isinstance(payload, dict):
        raise ConfigError(f'--file is "{path}": give an object with the keys of a payload.')
    return payload


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read(_FILE_MAX_BYTES)
    with path.open(encoding="utf-8") as file:
        return file.read(_FILE_MAX_BYTES)


def _env_file(name: str) -> Iterable[tuple[str, str]]:
    for line in _read(Path(name)).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield _env(line)


def _env(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals and name:
        return name, value
    if not name or name not in os.environ:
        raise ConfigError(
            f'--env is "{name}": give NAME=VALUE, or the name of a variable that is set here.'
        )
    return name, os.environ[name]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f'{option} is "{name}": give NAME=VALUE.')
    return name, value


def _by_event(texts: Texts, made: Any) -> dict[str, list[Any]]:
    events: dict[str, list[Any]] = {}
    for text in texts or ():
        event, equals, target = text.partition("=")
        if not equals or event not in ("starts", "succeeds", "fails", "finishes"):
            event, target = "finishes", text
        events.setdefault(event, []).append(made(target))
    return events


def _backoff(text: str) -> dict[str, float]:
    parts = text.split(":")
    try:
        if len(parts) > 3:
            raise ValueError
        backoff = {"minMs": _seconds(parts[0]) * 1000}
        if len(parts) > 1:
            backoff["factor"] = float(parts[1])
        if len(parts) > 2:
            backoff["maxMs"] = _seconds(parts[2]) * 1000
    except ValueError:
        raise ConfigError(
            f'--backoff is "{text}": give MIN, MIN:FACTOR or MIN:FACTOR:MAX, as in 1s:2:5m.'
        ) from None
    return backoff


def _seconds(text: str) -> float:
    from pytimeparse.timeparse import timeparse

    seconds = timeparse(text)
    if seconds is None:
        raise ValueError(text)
    return float(seconds)


def number_or_text(text: str) -> float | str:
    """Seconds as a number; the server reads everything else."""
    try:
        return float(text)
    except ValueError:
        return text
