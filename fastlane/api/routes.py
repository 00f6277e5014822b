"""THE table: every path, who answers it, who may ask, and what is documented of it.

A new endpoint is a handler, an entry here, and a test. Routing, the check of roles and of query
parameters, ``Allow`` and the OpenAPI document follow from the entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tornado.routing import URLSpec

from fastlane.api.base import BaseHandler
from fastlane.api.bounds import BoundedApplication
from fastlane.api.ends import PREFER, WAIT
from fastlane.api.forced import FORCE
from fastlane.api.handlers import output
from fastlane.api.handlers.bulk import RerunExecutions, StopExecutions
from fastlane.api.handlers.events import PARAMETERS as EVENT_PARAMETERS
from fastlane.api.handlers.events import STREAMED as STREAMED_EVENTS
from fastlane.api.handlers.events import Events, EventSocket
from fastlane.api.handlers.executions import Execution, StopExecution
from fastlane.api.handlers.host_list import HostList
from fastlane.api.handlers.hosts import Blacklist
from fastlane.api.handlers.jobs import Job, StopJob
from fastlane.api.handlers.lists import EXECUTION_FILTERS, JOB_FILTERS, LISTED, Executions, Jobs
from fastlane.api.handlers.metrics import MEDIA, Metrics
from fastlane.api.handlers.notifications import DELIVERY_STATE, Notifications, RequeueNotification
from fastlane.api.handlers.output import Logs, Stderr, Stdout
from fastlane.api.handlers.search import PARAMETERS, LogSearch
from fastlane.api.handlers.stats import SINCE, STEP, TASK, Stats
from fastlane.api.handlers.status import Healthcheck, Status
from fastlane.api.handlers.steering import (
    PauseJob,
    RerunExecution,
    ResumeJob,
    RetryJob,
    RunJob,
)
from fastlane.api.handlers.tasks import (
    DRY_RUN,
    FROM,
    IDEMPOTENCY_KEY,
    QUERY,
    TRACEPARENT,
    Search,
    Task,
    Tasks,
)
from fastlane.api.operations import EVENT_STREAM, HTML, JSON, Route, delete, get, post, put, route
from fastlane.api.pages.assets import Asset
from fastlane.api.pages.docs import Docs, Document
from fastlane.api.pages.execution import ExecutionPage
from fastlane.api.pages.index import Index, RouteIndex
from fastlane.api.pages.new import NewPage
from fastlane.api.pages.table import PAGES
from fastlane.api.paging import PAGED
from fastlane.api.parameters import Parameter
from fastlane.api.schemas import responses
from fastlane.api.schemas.bulk import Bulk, BulkResult
from fastlane.api.schemas.overrides import Overrides
from fastlane.api.schemas.payload import BlacklistPayload, JobPayload
from fastlane.api.schemas.planned import DryRun
from fastlane.api.security import Role, Security
from fastlane.api.services import Services
from fastlane.api.streaming.websocket import AFTER, FORMAT, STATE, LogSocket

JOB = "/tasks/<task>/jobs/<job>"
EXECUTION = f"{JOB}/executions/<execution>"
METRICS = "/metrics"

VIEWER, SUBMITTER, OPERATOR = Role.VIEWER, Role.SUBMITTER, Role.OPERATOR

_STATUS = ("Fastlane-Status", "Fastlane-Reason", "Fastlane-Exit-Code")
# Of what takes ?wait=.
_WAITED: Any = {"headers": (*_STATUS, "Preference-Applied"), "successes": (200, 202)}
_DELETION: Any = {"answer": (), "parameters": (FORCE,), "problems": (409,), "successes": (204,)}
_BULK: Any = {"answer": BulkResult, "body": Bulk, "problems": (409,)}
_RUN_AGAIN: Any = {
    "answer": responses.RetriedJob,
    "body": Overrides,
    "body_required": False,
    "problems": (404,),
}
_VERSION = Parameter("v", "The file's version. With it, it may be cached.", {"type": "string"})
_HOST: Any = {"answer": responses.BlacklistedHost, "body": BlacklistPayload, "problems": (404,)}
_ASSETS = ("text/css", "text/javascript", "image/svg+xml")


def _output(path: str, whose: str, of: str, page: str, socket: str) -> Sequence[Route]:
    """The routes on which the output of an execution is read.

    :param page, socket: the other spellings of the last two.
    """

    def text(name: str, what: str, handler: type[BaseHandler]) -> Route:
        id_, summary = f"get{whose}{name.capitalize()}", f"{what} of {of}"
        read = get(
            id_,
            VIEWER,
            summary,
            output.MEDIA,
            output.PARAMETERS,
            headers=(*_STATUS, "Fastlane-Execution-Id"),
            problems=(416,),
            successes=(200, 204, 206),
        )
        return route(f"{path}/{name}", handler, read)

    search = get(
        f"search{whose}Log",
        VIEWER,
        f"Search the log of {of}",
        responses.LogMatches,
        PARAMETERS,
        problems=(429,),
    )
    watch = get(f"watch{whose}", VIEWER, f"Page that shows the log of {of}", (HTML,))
    stream = get(
        f"stream{whose}", VIEWER, f"WebSocket with the log of {of}", None, (FORMAT, AFTER, STATE)
    )
    return (
        text("logs", "stdout and stderr", Logs),
        route(f"{path}/logs/search", LogSearch, search),
        text("stdout", "stdout", Stdout),
        text("stderr", "stderr", Stderr),
        route(f"{path}/stream", ExecutionPage, watch, spellings=(page,)),
        route(f"{path}/ws", LogSocket, stream, spellings=(socket,)),
    )


_SECTIONS: Mapping[str, Sequence[Route]] = {
    "Tasks": (
        route("/tasks", Tasks, get("listTasks", VIEWER, "All tasks", responses.TaskPage, PAGED)),
        route(
            "/search",
            Search,
            get("searchTasks", VIEWER, "Search tasks", responses.TaskPage, (QUERY, *PAGED)),
        ),
        route(
            "/tasks/<task>",
            Task,
            get("getTask", VIEWER, "One task", responses.TaskDetails, PAGED),
            post(
                "createJob",
                SUBMITTER,
                "Create a job",
                responses.Submitted,
                (WAIT, PREFER, IDEMPOTENCY_KEY, TRACEPARENT, FROM, DRY_RUN),
                JobPayload,
                problems=(404, 422),
                other=DryRun,
                **{**_WAITED, "headers": ("Idempotent-Replayed", *_WAITED["headers"])},
            ),
            delete("deleteTask", SUBMITTER, "Delete a task with its jobs", **_DELETION),
        ),
    ),
    "Jobs": (
        route(
            "/jobs",
            Jobs,
            get(
                "listJobs",
                VIEWER,
                "Jobs of all tasks",
                responses.JobPage,
                (*JOB_FILTERS, *LISTED),
            ),
        ),
        route(
            JOB,
            Job,
            get(
                "getJob", VIEWER, "One job", responses.JobDetails, (WAIT, PREFER, *PAGED), **_WAITED
            ),
            put(
                "putJob", SUBMITTER, "Create or replace a job", responses.Submitted, body=JobPayload
            ),
            delete("deleteJob", SUBMITTER, "Delete a job with its executions", **_DELETION),
        ),
        route(
            f"{JOB}/stop", StopJob, post("stopJob", SUBMITTER, "Stop a job", responses.StoppedJob)
        ),
        route(
            f"{JOB}/retry",
            RetryJob,
            post("retryJob", SUBMITTER, "Run a job once more", **_RUN_AGAIN),
        ),
        route(
            f"{JOB}/run",
            RunJob,
            post("runJob", SUBMITTER, "Run a job now", **_RUN_AGAIN),
        ),
        route(
            f"{JOB}/pause",
            PauseJob,
            post("pauseJob", SUBMITTER, "Hold back the ticks of a job", responses.PausedJob),
        ),
        route(
            f"{JOB}/resume",
            ResumeJob,
            post("resumeJob", SUBMITTER, "End the pause of a job", responses.PausedJob),
        ),
    ),
    "Executions": (
        route(
            "/executions",
            Executions,
            get(
                "listExecutions",
                VIEWER,
                "Executions of all tasks",
                responses.ExecutionPage,
                (*EXECUTION_FILTERS, *LISTED),
            ),
        ),
        route(
            "/executions/stop",
            StopExecutions,
            post("stopExecutions", SUBMITTER, "Stop many executions", **_BULK),
        ),
        route(
            "/executions/rerun",
            RerunExecutions,
            post("rerunExecutions", SUBMITTER, "Run many executions once more", **_BULK),
        ),
        route(
            EXECUTION,
            Execution,
            get(
                "getExecution",
                VIEWER,
                "One execution",
                responses.ExecutionDetails,
                (WAIT, PREFER),
                **_WAITED,
            ),
            delete("deleteExecution", SUBMITTER, "Delete an execution", **_DELETION),
        ),
        route(
            f"{EXECUTION}/stop",
            StopExecution,
            post("stopExecution", SUBMITTER, "Stop an execution", responses.StoppedExecution),
        ),
        route(
            f"{EXECUTION}/rerun",
            RerunExecution,
            post("rerunExecution", SUBMITTER, "Run an execution once more", **_RUN_AGAIN),
        ),
    ),
    "Output": (
        *_output(
            JOB,
            "Job",
            "the last execution",
            "/task/<task>/jobs/<job>/stream",
            "/task/<task>/jobs/<job>/ws",
        ),
        *_output(
            EXECUTION,
            "Execution",
            "an execution",
            f"{JOB}/stream/executions/<execution>",
            "/tasks/<task>/job/<job>/executions/<execution>/ws",
        ),
    ),
    "Events": (
        route(
            "/events",
            Events,
            get(
                "followEvents",
                VIEWER,
                "What happens, as a stream or in pages",
                responses.EventPage,
                EVENT_PARAMETERS,
                media=(EVENT_STREAM,),
            ),
        ),
        route(
            "/events/ws",
            EventSocket,
            get("streamEvents", VIEWER, "WebSocket with what happens", None, STREAMED_EVENTS),
        ),
    ),
    "Notifications": (
        route(
            "/notifications",
            Notifications,
            get(
                "listNotifications",
                OPERATOR,
                "Pending and failed notifications",
                responses.NotificationPage,
                (DELIVERY_STATE, *PAGED),
            ),
        ),
        route(
            "/notifications/<notification>/requeue",
            RequeueNotification,
            post(
                "requeueNotification",
                OPERATOR,
                "Try a failed notification again",
                responses.Notification,
            ),
        ),
    ),
    "Server": (
        route(
            "",
            Index,
            get("getIndex", VIEWER, "The routes of this server", RouteIndex, stored=False),
        ),
        route(
            "/hosts",
            HostList,
            get("listHosts", VIEWER, "Farms, hosts and what runs on them", responses.HostList),
        ),
        route(
            "/stats",
            Stats,
            get(
                "getStats",
                VIEWER,
                "Counts and durations over time",
                responses.Stats,
                (SINCE, STEP, TASK),
                problems=(404,),
            ),
        ),
        route(
            "/docker-executor/blacklist",
            Blacklist,
            get("getBlacklist", VIEWER, "Black-listed hosts", responses.Blacklist),
            post("blacklistHost", OPERATOR, "Black-list a host", **_HOST),
            put("alsoBlacklistHost", OPERATOR, "Black-list a host (as POST)", **_HOST),
            delete("putBackHost", OPERATOR, "Put a host back", **_HOST),
        ),
        route(
            "/healthcheck",
            Healthcheck,
            get(
                "getHealth",
                Role.ANONYMOUS,
                "Whether the storage is available",
                responses.Health,
                unavailable=responses.Health,
            ),
            any_host=True,
        ),
        route(
            "/status",
            Status,
            get("getStatus", VIEWER, "What the server does", responses.ServerStatus),
        ),
        route(
            METRICS,
            Metrics,
            get("getMetrics", VIEWER, "Metrics for Prometheus", MEDIA, stored=False),
        ),
        route(
            "/openapi.json",
            Document,
            get("getOpenApi", VIEWER, "This document", (JSON,), stored=False),
        ),
        route(
            "/new",
            NewPage,
            get("getForm", SUBMITTER, "A form for a new job", (HTML,), stored=False),
        ),
        route(
            "/docs",
            Docs,
            get("readDocs", VIEWER, "This document, for people", (HTML,), stored=False),
        ),
        route(
            "/static/<name>",
            Asset,
            get("getAsset", VIEWER, "A file of the pages", _ASSETS, (_VERSION,), stored=False),
        ),
    ),
}
ROUTES = tuple(
    replace(one, tag=tag).with_page(PAGES.get(one.path))
    for tag, routes in _SECTIONS.items()
    for one in routes
)


def make_app(
    services: Services, routes: tuple[Route, ...] = ROUTES, security: Security | None = None
) -> BoundedApplication:
    """The application that serves *services*."""
    if services.config.metrics == "open":
        routes = tuple(one.open_to_all() if one.path == METRICS else one for one in routes)
    return BoundedApplication(
        [
            URLSpec(f"{_pattern(path)}/?", one.handler, {"route": one})
            for one in routes
            for path in one.paths
        ],
        services,
        security or Security(services.config),
        routes=routes,
        compress_response=True,
        log_function=_count,
    )


def _pattern(path: str) -> str:
    return re.sub(r"<\w+>", "([^/]+)", path.replace(".", r"\."))


def _count(handler: BaseHandler) -> None:
    """Requests are counted, and not logged one by one; what goes wrong inside is, with its id."""
    # Neither what no route matches nor what is refused has operations.
    route = (handler.route.path or "/") if handler.route.operations else "none"
    request = handler.request
    handler.services.metrics.request(
        route, request.method, handler.get_status(), request.request_time()
    )
