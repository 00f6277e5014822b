"""Errors of fastlane itself, reported to Sentry when ``SENTRY_DSN`` is set, without secrets.

Log records of level error and above are reported: a bug, a background step that failed, a request
that failed internally. A job that fails is not an error of fastlane. Nothing else is sent: no local
variables, request bodies, breadcrumbs or environment.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration
from sentry_sdk.utils import event_from_exception

from fastlane import __version__
from fastlane.config import Config
from fastlane.redact import HIDDEN, Redactor

# Bounds how long the process waits at its end for reports that are being sent.
SHUTDOWN_SECONDS = 2
# Bounds each text of an event; the rest is not sent.
TEXT_MAX_CHARS = 10_000
# Keys of our own log records that say nothing about the error.
_NOT_FACTS = frozenset({"event", "exc_info", "level", "logger", "timestamp", "stack_info"})


def configure(config: Config) -> None:
    """Report to ``SENTRY_DSN`` if it is set. A second call replaces the first.

    A separate thread sends the reports. Its queue is bounded; reports are dropped when it is full.
    """
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if not isinstance(one, _Handler)]
    dsn = config.sentry_dsn.get_secret_value()
    if not dsn:
        return
    scrub = Scrubber(
        config.env_blacklisted_words,
        [
            value.get_secret_value()
            for name in Config.model_fields
            if hasattr(value := getattr(config, name), "get_secret_value")
        ],
    )

    def before_send(event: Any, _: Mapping[str, Any]) -> Any:
        return scrub(event)

    sentry_sdk.init(
        dsn,
        release=f"fastlane@{__version__}",
        # The defaults also record arguments, modules, requests made and lines logged.
        default_integrations=False,
        integrations=[
            AtexitIntegration(callback=lambda pending, timeout: None),
            DedupeIntegration(),
            ExcepthookIntegration(),
            ThreadingIntegration(),
        ],
        auto_enabling_integrations=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        auto_session_tracking=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        before_send=before_send,
    )
    root.addHandler(_Handler(logging.ERROR))


class Scrubber:
    """Removes secrets from an event: by key, by pattern and by value."""

    def __init__(self, words: Iterable[str], values: Iterable[str]) -> None:
        """:param values: strings that are secrets themselves."""
        self._redactor = Redactor(words)
        # Longest first, because one may contain another. Short ones would hide ordinary words.
        self._values = sorted({v for v in values if len(v) >= 4}, key=len, reverse=True)

    def __call__(self, value: Any) -> Any:
        return self._redactor.value(value, text=self._text)

    def _text(self, text: str) -> str:
        for secret in self._values:
            text = text.replace(secret, HIDDEN)
        if len(text) > TEXT_MAX_CHARS:
            text = f"{text[:TEXT_MAX_CHARS]}… ({len(text) - TEXT_MAX_CHARS} more characters)"
        return self._redactor.text(text)


class _Handler(logging.Handler):
    """Turns records into events: our own, whose message is a mapping, and those of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        # Errors of reporting must neither be reported nor stop anything.
        if record.name.startswith(("sentry_sdk", "urllib3")):
            return
        try:
            sentry_sdk.capture_event(_event_of(record))
        except Exception:
            self.handleError(record)


def _event_of(record: logging.LogRecord) -> Any:
    facts: Mapping[str, Any] = record.msg if isinstance(record.msg, Mapping) else {}
    message = str(facts["event"]) if "event" in facts else record.getMessage()
    error = _exception(facts.get("exc_info") or record.exc_info)
    event: dict[str, Any] = {}
    if error is not None:
        made, _ = event_from_exception(
            error,
            client_options=sentry_sdk.get_client().options,
            mechanism={"type": "logging", "handled": True},
        )
        event.update(made)
    event["level"] = record.levelname.lower()
    event["logger"] = str(facts.get("logger") or record.name)
    event["logentry"] = {"message": message}
    event["extra"] = {key: repr_of(held) for key, held in facts.items() if _is_fact(key)}
    return event


def _is_fact(key: str) -> bool:
    return key not in _NOT_FACTS and not key.startswith("_")


def repr_of(value: Any) -> Any:
    """*value*, as it is if secrets can be found in it, otherwise its ``repr``."""
    if value is None or isinstance(value, str | int | float | bool | Mapping | list | tuple):
        return value
    return repr(value)


def _exception(given: Any) -> BaseException | None:
    if given is True:
        return sys.exc_info()[1]
    if isinstance(given, tuple):
        given = given[1]
    return given if isinstance(given, BaseException) else None
