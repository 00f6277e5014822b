"""The format of log lines, for fastlane (structlog) and for the libraries.

Lines go to standard error, with times in UTC: readable text on a terminal, otherwise one JSON
object per line. Values bound with :func:`structlog.contextvars.bound_contextvars` (the request id,
the execution) are added to every line. Tracebacks never show local variables, which may contain
secrets of users.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from fastlane.config import Config
from fastlane.redact import HIDDEN, redactor

# Libraries that log each packet at level debug; they log from info on.
_CHATTY = ("aiohttp", "aiosqlite", "asyncio", "pymongo")


def configure(config: Config, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process with ``LOG_FORMAT`` and ``LOG_LEVEL``.

    A second call replaces the first.

    Secrets are hidden, as :mod:`fastlane.redact` recognises them.

    :param stream: where lines are written; standard error by default.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _hide(config.env_blacklisted_words),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], structlog.stdlib.ExtraAdder(), shared[-1]],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(config, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)


def _renderers(config: Config, stream: TextIO) -> Sequence[Processor]:
    """What makes a line of an event: for people, or as JSON."""
    words = config.env_blacklisted_words
    if config.log_format == "json" or (config.log_format == "auto" and not stream.isatty()):
        # The texts of exceptions are known once they are formatted.
        return (
            structlog.processors.format_exc_info,
            _hide(words),
            structlog.processors.JSONRenderer(),
        )

    def traceback(stream: TextIO, exc_info: ExcInfo) -> None:
        text = StringIO()
        # The pretty tracebacks of rich show local variables.
        structlog.dev.plain_traceback(text, exc_info)
        stream.write(redactor(words).text(text.getvalue()))

    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=traceback)
    return _printable, renderer


def _hide(words: tuple[str, ...]) -> Processor:
    redact = redactor(words)

    def hide(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        for key, value in event_dict.items():
            if redact.is_secret(key):
                event_dict[key] = HIDDEN
            elif isinstance(value, str):
                event_dict[key] = redact.text(value)
            elif isinstance(value, (Mapping, list)) or (
                isinstance(value, tuple) and key != "exc_info"
            ):
                event_dict[key] = redact.value(value)
        return event_dict

    return hide


def _printable(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Escape control characters, which could move the cursor or forge a line of the log."""
    for key, value in event_dict.items():
        if key not in ("exception", "stack") and isinstance(value, str) and not value.isprintable():
            event_dict[key] = repr(value)[1:-1]
    return event_dict
