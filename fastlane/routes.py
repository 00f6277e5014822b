"""The one URL table.

Every route answers with and without its trailing slash. Each ``<name>`` is percent-decoded.
"""

from __future__ import annotations

import re
from typing import Any

from tornado.routing import URLSpec
from tornado.web import Application

from fastlane.api.base import BaseHandler, NoSuchRoute
from fastlane.api.bounds import BoundedApplication
from fastlane.api.docs import Docs, Document
from fastlane.api.executions import Execution, StopExecution
from fastlane.api.hosts import Blacklist
from fastlane.api.jobs import Job, RetryJob, StopJob
from fastlane.api.notifications import Notifications, RequeueNotification
from fastlane.api.output import Logs, Stderr, Stdout
from fastlane.api.pages import Asset, StreamPage
from fastlane.api.services import Services
from fastlane.api.status import Healthcheck, Status
from fastlane.api.tasks import Search, Task, Tasks
from fastlane.api.websocket import LogSocket

JOB = "/tasks/<task>/jobs/<job>"
EXECUTION = f"{JOB}/executions/<execution>"

ROUTES: tuple[tuple[str, type[BaseHandler]], ...] = (
    ("/tasks", Tasks),
    ("/search", Search),
    ("/tasks/<task>", Task),
    (JOB, Job),
    (f"{JOB}/stop", StopJob),
    (f"{JOB}/retry", RetryJob),
    (f"{JOB}/logs", Logs),
    (f"{JOB}/stdout", Stdout),
    (f"{JOB}/stderr", Stderr),
    (f"{JOB}/stream", StreamPage),
    (f"{JOB}/ws", LogSocket),
    (EXECUTION, Execution),
    (f"{EXECUTION}/stop", StopExecution),
    (f"{EXECUTION}/logs", Logs),
    (f"{EXECUTION}/stdout", Stdout),
    (f"{EXECUTION}/stderr", Stderr),
    (f"{EXECUTION}/stream", StreamPage),
    (f"{EXECUTION}/ws", LogSocket),
    ("/notifications", Notifications),
    ("/notifications/<notification>/requeue", RequeueNotification),
    ("/docker-executor/blacklist", Blacklist),
    ("/healthcheck", Healthcheck),
    ("/status", Status),
    ("/openapi.json", Document),
    ("/docs", Docs),
    # Other spellings of the reference.
    (f"{JOB}/stream/executions/<execution>", StreamPage),
    ("/tasks/<task>/job/<job>/executions/<execution>/ws", LogSocket),
    ("/task/<task>/jobs/<job>/stream", StreamPage),
    ("/task/<task>/jobs/<job>/ws", LogSocket),
    # What the pages are made of.
    ("/static/<name>", Asset),
)


def make_app(services: Services) -> Application:
    """The application that serves *services*."""
    return BoundedApplication(
        [URLSpec(f"{_pattern(path)}/?", handler) for path, handler in ROUTES],
        default_handler_class=NoSuchRoute,
        services=services,
        compress_response=True,
        log_function=_log_nothing,
    )


def _pattern(path: str) -> str:
    return re.sub(r"<\w+>", "([^/]+)", path.replace(".", r"\."))


def _log_nothing(handler: Any) -> None:
    """Requests are not logged one by one; what goes wrong inside is, with its request id."""
