"""The OpenAPI 3.1 document of the API, made from the models that validate and those of answers.

One entry of :data:`OPERATIONS` for each route and method, under the route's canonical spelling,
which ends with a slash as the reference writes it. Every other spelling that leads there stands in
the path's ``x-fastlane-spellings``.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from fastlane.api.lookup import TASK_ID_MAX_CHARS
from fastlane.api.output import TAIL_MAX_LINES
from fastlane.api.paging import MAX_PAGE, MAX_PER_PAGE
from fastlane.api.payload import BlacklistPayload, JobPayload, job_payload
from fastlane.api.schemas import executions, jobs, notifications, problems, server
from fastlane.api.schemas.channels import added_keys
from fastlane.api.tasks import IDEMPOTENCY_KEY_MAX_CHARS, QUERY_MAX_CHARS
from fastlane.api.websocket import MAX_SEQ

JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain"
HTML = "text/html"

JOB = "/tasks/<task>/jobs/<job>"
EXECUTION = f"{JOB}/executions/<execution>"


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does on one route. HEAD and OPTIONS are not written down one by one."""

    path: str
    """As in the table of routes."""
    method: str
    """In lower case."""
    id: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, type[Any] | tuple[str, ...] | None]
    """For each status of success: a model (JSON), media types, or None (no body)."""
    query: Sequence[str] = ()
    """Names in :data:`PARAMETERS`."""
    body: type[Any] | None = None
    problems: Sequence[int] = ()
    """Statuses of problems beside those that :func:`problem_statuses` adds."""
    headers: Sequence[str] = ()
    """Headers of the successful answers; names in :data:`HEADERS`."""
    stored: bool = True
    """Whether it needs the storage, which may be away."""

    @property
    def has_head(self) -> bool:
        """Whether HEAD is answered, too; a WebSocket's handshake is a GET."""
        return self.method == "get" and 101 not in self.answers


SPELLINGS: Mapping[str, Sequence[str]] = {
    f"{JOB}/stream": ("/task/<task>/jobs/<job>/stream",),
    f"{JOB}/ws": ("/task/<task>/jobs/<job>/ws",),
    f"{EXECUTION}/stream": (f"{JOB}/stream/executions/<execution>",),
    f"{EXECUTION}/ws": ("/tasks/<task>/job/<job>/executions/<execution>/ws",),
}
"""The other spellings of the reference; all answer with and without a slash at the end."""

_SUBMIT = (
    "Nothing is answered before it is durable. The execution's id and URL are null when the job "
    "is scheduled: ask for the job later on."
)
_LOG = "What has been written so far while it runs, and the whole afterwards: the exact bytes."
_WATCH = (
    "Text frames from the first byte, both streams in the order in which they were written, live "
    "while it runs. Close code 1000 with reason `done`: everything was sent. Reason `retry`: "
    "nothing to send yet, or the stream broke; connect again. With `format=json` each frame is "
    "`{seq, ts, stream, text}`, and the last one `{end, status, exitCode, reason}`."
)
_PAGED = ("page", "perPage", "after")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "/tasks",
        "get",
        "listTasks",
        "Tasks",
        "All tasks",
        "A page of the tasks, oldest first.",
        {200: jobs.TaskPage},
        query=_PAGED,
    ),
    Operation(
        "/search",
        "get",
        "searchTasks",
        "Tasks",
        "Search tasks",
        "Tasks whose id holds any of the words of `query`, best match first. Only whole words "
        "match, case aside; they are split at everything but letters and digits.",
        {200: jobs.TaskPage},
        query=("query", *_PAGED),
    ),
    Operation(
        "/tasks/<task>",
        "get",
        "getTask",
        "Tasks",
        "One task",
        "The task with a page of its jobs, newest first.",
        {200: jobs.TaskDetails},
        query=_PAGED,
        problems=(404,),
    ),
    Operation(
        "/tasks/<task>",
        "post",
        "createJob",
        "Jobs",
        "Create a job",
        "Stores a job and, unless it is scheduled, its first execution. " + _SUBMIT,
        {200: jobs.Submitted},
        query=("Idempotency-Key",),
        body=JobPayload,
        headers=("Idempotent-Replayed",),
        problems=(422,),
    ),
    Operation(
        JOB,
        "get",
        "getJob",
        "Jobs",
        "One job",
        "The job with a page of its executions, newest first.",
        {200: jobs.JobDetails},
        query=_PAGED,
        problems=(404,),
    ),
    Operation(
        JOB,
        "put",
        "putJob",
        "Jobs",
        "Create or replace a job",
        "Creates the job with this id, a UUID4, or replaces its definition and schedule, and "
        "enqueues as a new job does. " + _SUBMIT,
        {200: jobs.Submitted},
        body=JobPayload,
    ),
    Operation(
        f"{JOB}/stop",
        "post",
        "stopJob",
        "Jobs",
        "Stop a job",
        "Ends its last execution, its schedule and its retries. Safe to repeat.",
        {200: jobs.StoppedJob},
        problems=(404,),
    ),
    Operation(
        f"{JOB}/retry",
        "post",
        "retryJob",
        "Jobs",
        "Run a job once more",
        "A new execution of its last definition; one that still runs is stopped first. 400 when "
        "the job has not run yet.",
        {200: jobs.RetriedJob},
        problems=(404,),
    ),
    Operation(
        EXECUTION,
        "get",
        "getExecution",
        "Executions",
        "One execution",
        "How it is or how it ended, with the end of its output.",
        {200: executions.ExecutionDetails},
        problems=(404,),
    ),
    Operation(
        f"{EXECUTION}/stop",
        "post",
        "stopExecution",
        "Executions",
        "Stop an execution",
        "Ends this run and its retries; the job's schedule goes on. Safe to repeat.",
        {200: executions.StoppedExecution},
        problems=(404,),
    ),
    *(
        Operation(
            f"{path}/{name}",
            "get",
            f"get{whose}{name.capitalize()}",
            "Output",
            f"{'stdout and stderr' if name == 'logs' else name} of {of}",
            f"Separated by a line `-=-`. {_LOG}" if name == "logs" else _LOG,
            {200: (TEXT,)},
            query=("tail",),
            problems=(404,),
            headers=("Fastlane-Status", "Fastlane-Reason", "Fastlane-Exit-Code"),
        )
        for path, whose, of in (
            (JOB, "Job", "the last execution"),
            (EXECUTION, "Execution", "an execution"),
        )
        for name in ("logs", "stdout", "stderr")
    ),
    *(
        operation
        for path, whose, of in (
            (JOB, "Job", "the last execution"),
            (EXECUTION, "Execution", "an execution"),
        )
        for operation in (
            Operation(
                f"{path}/stream",
                "get",
                f"watch{whose}",
                "Output",
                f"Page that shows the log of {of}",
                "For people: a page on which the log is followed in a browser.",
                {200: (HTML,)},
                problems=(404,),
            ),
            Operation(
                f"{path}/ws",
                "get",
                f"stream{whose}",
                "Output",
                f"WebSocket with the log of {of}",
                _WATCH,
                {101: None},
                query=("format", "afterSeq", "state"),
                problems=(404, 426),
            ),
        )
    ),
    Operation(
        "/notifications",
        "get",
        "listNotifications",
        "Notifications",
        "Notifications that wait or have failed",
        "Newest first: those that were tried in vain until their retries were used up "
        "(`failed`, the default), or those that are still on their way (`pending`).",
        {200: notifications.NotificationPage},
        query=("deliveryState", *_PAGED),
    ),
    Operation(
        "/notifications/<notification>/requeue",
        "post",
        "requeueNotification",
        "Notifications",
        "Try a failed notification again",
        "From its first attempt on, under the same id. Safe to repeat; 400 when it was delivered.",
        {200: notifications.Notification},
        problems=(404,),
    ),
    Operation(
        "/docker-executor/blacklist",
        "get",
        "getBlacklist",
        "Server",
        "Which hosts are out",
        "Those that were taken out for new executions, also where no farm has them any more.",
        {200: server.Blacklist},
    ),
    *(
        Operation(
            "/docker-executor/blacklist",
            method,
            f"{verb}Host",
            "Server",
            summary,
            "For new executions, on every instance at once; those that it has go on. Safe to "
            "repeat. 404 for a host that is not in the configuration.",
            {200: server.BlacklistedHost},
            body=BlacklistPayload,
            problems=(404,),
        )
        for method, verb, summary in (
            ("post", "blacklist", "Take a host out"),
            ("put", "alsoBlacklist", "Take a host out (as POST)"),
            ("delete", "putBack", "Put a host back"),
        )
    ),
    Operation(
        "/healthcheck",
        "get",
        "getHealth",
        "Server",
        "Whether the storage is well",
        "200 when it is, else 503 with what is wrong.",
        {200: server.Health, 503: server.Health},
    ),
    Operation(
        "/status",
        "get",
        "getStatus",
        "Server",
        "What the server does",
        "Running containers, hosts, queues and the jobs that have a next run.",
        {200: server.ServerStatus},
    ),
    Operation(
        "/openapi.json",
        "get",
        "getOpenApi",
        "Server",
        "This document",
        "The OpenAPI 3.1 document of this server.",
        {200: (JSON,)},
        stored=False,
    ),
    Operation(
        "/docs",
        "get",
        "readDocs",
        "Server",
        "This document, for people",
        "A page to read the API on.",
        {200: (HTML,)},
        stored=False,
    ),
    Operation(
        "/static/<name>",
        "get",
        "getAsset",
        "Server",
        "A file of the pages",
        "Style sheets, scripts and pictures of the pages.",
        {200: ("text/css", "text/javascript", "image/svg+xml")},
        query=("v",),
        problems=(404,),
        stored=False,
    ),
)

TAGS: Mapping[str, str] = {
    "Tasks": "A task groups jobs under a name that you choose.",
    "Jobs": "A job says what to run and when.",
    "Executions": "An execution is one run of a job.",
    "Output": "What an execution writes: as text, as a page, as a stream.",
    "Notifications": "Notifications that are pending or could not be delivered.",
    "Server": "How the server is, and what it says of itself.",
}

_TASK_ID = {
    "type": "string",
    "minLength": 1,
    "maxLength": TASK_ID_MAX_CHARS,
    # No slash, no control character, no blank at either end.
    "pattern": r"^[^\s/\x00-\x1f\x7f-\x9f]([^/\x00-\x1f\x7f-\x9f]*[^\s/\x00-\x1f\x7f-\x9f])?$",
}
_UUID = {"type": "string", "format": "uuid"}


def _parameter(
    name: str, where: str, description: str, schema: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": dict(schema),
        **more,
    }


PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "task": _parameter(
        "task", "path", "Any name, percent-encoded.", _TASK_ID, example="test-wrkng"
    ),
    "job": _parameter(
        "job",
        "path",
        "The job's id, a UUID4.",
        _UUID,
        example="5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
    ),
    "execution": _parameter(
        "execution",
        "path",
        "The execution's id, a UUID4.",
        _UUID,
        example="36e1b166-7c7a-4a41-a69e-8f78a9ec8128",
    ),
    "notification": _parameter(
        "notification",
        "path",
        "The notification's id.",
        _UUID,
        example="ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c",
    ),
    "deliveryState": _parameter(
        "state",
        "query",
        "Which notifications.",
        {"type": "string", "enum": ["failed", "pending"], "default": "failed"},
    ),
    "name": _parameter(
        "name", "path", "The file's name.", {"type": "string"}, example="stream.css"
    ),
    "page": _parameter(
        "page",
        "query",
        "Which page, from 1. One past the end is empty.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1},
    ),
    "perPage": _parameter(
        "perPage",
        "query",
        "How many a page holds.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PER_PAGE},
    ),
    "after": _parameter(
        "after",
        "query",
        "Opaque: part of `nextUrl`, and wins over `page`.",
        {"type": "string"},
    ),
    "query": _parameter(
        "query",
        "query",
        "Words to look for.",
        {"type": "string", "maxLength": QUERY_MAX_CHARS},
        example="hello world",
    ),
    "tail": _parameter(
        "tail",
        "query",
        "Only the last lines, this many.",
        {"type": "integer", "minimum": 0, "maximum": TAIL_MAX_LINES},
    ),
    "format": _parameter(
        "format",
        "query",
        "What a frame holds: text, or a record as JSON.",
        {"type": "string", "enum": ["plain", "json"], "default": "plain"},
    ),
    "afterSeq": _parameter(
        "after",
        "query",
        "Go on behind this record.",
        {"type": "integer", "minimum": 0, "maximum": MAX_SEQ, "default": 0},
    ),
    "state": _parameter(
        "state",
        "query",
        "Frames about changes of state, too (with `format=json`).",
        {"type": "boolean", "default": False},
    ),
    "v": _parameter(
        "v", "query", "The file's version; with it, it may be cached.", {"type": "string"}
    ),
    "Idempotency-Key": _parameter(
        "Idempotency-Key",
        "header",
        "Your name for this request: a repeat is answered with the first answer.",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_MAX_CHARS,
        },
    ),
}

HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-ID": {
        "description": "Yours, or a new one; stands in every log line of the request.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Fastlane-Status": {
        "description": "The execution's status; `scheduled` when there is none yet.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Fastlane-Reason": {
        "description": "Why it ended, as `reason` in its details; only once it has.",
        "schema": {"type": "string"},
    },
    "Fastlane-Exit-Code": {
        "description": "Only once there is one.",
        "schema": {"type": "integer"},
    },
    "Idempotent-Replayed": {
        "description": "`true` on the repeat of an earlier request.",
        "schema": {"type": "string", "const": "true"},
    },
    "Allow": {"description": "What this route answers.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "Asks for Basic.", "schema": {"type": "string"}},
    "Accept-Encoding": {"description": "What is taken.", "schema": {"type": "string"}},
    "Upgrade": {"description": "Asks for `websocket`.", "schema": {"type": "string"}},
}

PROBLEMS: Mapping[int, tuple[str, Sequence[str]]] = {
    400: ("The request is wrong; `errors` names all that is wrong with a payload.", ()),
    401: ("User and password are asked for and were not given.", ("WWW-Authenticate",)),
    403: ("It would change something, and comes from another origin or to another host.", ()),
    404: ("It is not there.", ()),
    405: ("This method is not answered here.", ("Allow",)),
    413: ("The body is larger than MAX_BODY_BYTES.", ()),
    415: ("The body is compressed.", ("Accept-Encoding",)),
    422: ("The idempotency key was used for another request.", ()),
    426: ("This is a WebSocket: connect with the scheme ws or wss.", ("Upgrade",)),
    431: ("The headers are larger than 64 KiB.", ()),
    500: ("Something failed inside fastlane; its log has the details.", ()),
    503: ("The storage or the server cannot take it now; nothing was changed.", ("Retry-After",)),
}

EVERYWHERE = frozenset({400, 401, 403, 413, 415, 431, 500})
"""Any request may be answered with one of these."""

_SUCCESSES = {101: "The socket is open.", 200: "Done.", 304: "What you have is still right."}

DESCRIPTION = """\
Runs container jobs for whoever can send an HTTP request: post an image and a command, and it runs
in a container, now, later or by cron, is retried, stopped, watched live, and its result is kept.

Every route answers with and without the slash at its end. A JSON body is read whatever its
`Content-Type` says. URLs in answers are absolute; times are UTC. Errors are
`application/problem+json` (RFC 9457), and a request that is answered with one has changed nothing.
Every answer has an `X-Request-ID`, yours or a new one. A method that a route does not answer gets
405 with `Allow`; `OPTIONS` is answered everywhere. JSON is gzipped for clients that accept it.
"""


def document_path(route: str) -> str:
    """The canonical spelling of *route* as a template of the document."""
    path = re.sub(r"<(\w+)>", r"{\1}", route)
    # A name with an extension is a file, which has no slash behind it.
    return path if path.endswith((".json", "{name}")) else f"{path}/"


def spellings(route: str) -> tuple[str, ...]:
    """Every spelling that leads to *route*, the canonical one first."""
    canonical = document_path(route)
    other = canonical.rstrip("/") if canonical.endswith("/") else f"{canonical}/"
    more = [re.sub(r"<(\w+)>", r"{\1}", path) for path in SPELLINGS.get(route, ())]
    return (canonical, other, *(spelling for path in more for spelling in (f"{path}/", path)))


@cache
def document(version: str) -> Mapping[str, Any]:
    """The document, without ``servers``. It is shared: copy it before you change anything."""
    routes = list(dict.fromkeys(operation.path for operation in OPERATIONS))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastlane",
            "version": version,
            "summary": "Container jobs over HTTP.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        # Without auth and with: it depends on BASIC_AUTH_USER.
        "security": [{}, {"basic": []}],
        "paths": {document_path(route): _path_item(route) for route in routes},
        "components": {
            "schemas": schemas(),
            "parameters": {name: dict(value) for name, value in PARAMETERS.items()},
            "headers": {name: dict(value) for name, value in HEADERS.items()},
            "responses": {
                "Allowed": {
                    "description": "What this route answers.",
                    "headers": _headers("X-Request-ID", "Allow"),
                },
                **{f"Problem{status}": _problem(status) for status in PROBLEMS},
            },
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


@cache
def schemas() -> Mapping[str, Any]:
    """The schemas of the payload and of the answers, by name."""
    answers = _answer_models()
    models: list[tuple[type[Any], str]] = [
        *((body, "validation") for body in (job_payload(), BlacklistPayload)),
        *((model, "serialization") for model in answers),
    ]
    added: dict[str, Any] = {
        name: TypedDict(f"{name}OfChannels", keys)  # type: ignore[operator]
        for name, keys in added_keys().items()
    }
    models += [(model, "serialization") for model in added.values()]
    _, found = TypeAdapter.json_schemas(
        [(model.__name__, mode, TypeAdapter(model)) for model, mode in models],  # type: ignore[misc]
        ref_template="#/components/schemas/{model}",
    )
    named: dict[str, Any] = _without_titles(found["$defs"])
    for name, model in added.items():
        more = named.pop(model.__name__)
        named[name]["properties"] |= more["properties"]
        named[name]["required"] += more["required"]
    for model in answers:
        named[model.__name__]["examples"] = [sample(named[model.__name__], named)]
    return named


def _answer_models() -> list[type[Any]]:
    found = {
        answer
        for operation in OPERATIONS
        for answer in operation.answers.values()
        if answer is not None and not isinstance(answer, tuple)
    }
    return [*found, problems.ProblemDetails, problems.PayloadProblem]


def _without_titles(value: Any) -> Any:
    """*value* without the titles that pydantic makes of names."""
    if isinstance(value, dict):
        return {
            key: _without_titles(inner)
            for key, inner in value.items()
            # A property may bear the name "title", and then its value is a schema.
            if not (key == "title" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [_without_titles(inner) for inner in value]
    return value


def sample(schema: Mapping[str, Any], named: Mapping[str, Any]) -> Any:
    """A value that *schema* describes, made of the examples in it."""
    if "$ref" in schema:
        schema = {**named[schema["$ref"].rpartition("/")[2]], **schema}
        del schema["$ref"]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "default" in schema:
        return schema["default"]
    if {"type": "null"} in schema.get("anyOf", ()):
        return None
    match schema.get("type"):
        case "object":
            return {
                name: sample(inner, named) for name, inner in schema.get("properties", {}).items()
            }
        case "array":
            return [sample(schema["items"], named)]
        case "boolean":
            return False
    return ""


def _path_item(route: str) -> dict[str, Any]:
    parameters = [
        {"$ref": f"#/components/parameters/{name}"} for name in re.findall(r"<(\w+)>", route)
    ]
    item: dict[str, Any] = {"x-fastlane-spellings": list(spellings(route))}
    if parameters:
        item["parameters"] = parameters
    for operation in OPERATIONS:
        if operation.path == route:
            item[operation.method] = _operation(operation)
            if operation.has_head:
                item["head"] = _head(operation)
    item["options"] = {
        "operationId": f"options{_words(route)}",
        "tags": ["Server"],
        "summary": "What this route answers",
        "responses": {
            "204": {"$ref": "#/components/responses/Allowed"},
            **{str(status): _problem_reference(status) for status in sorted(_everywhere(route))},
        },
    }
    return item


def _head(operation: Operation) -> dict[str, Any]:
    """GET without bodies."""
    found = _operation(operation)
    responses = {}
    for status in found["responses"]:
        if int(status) in PROBLEMS:
            response = _problem(int(status))
        else:
            response = dict(found["responses"][status])
        response.pop("content", None)
        responses[status] = response
    return {
        **found,
        "operationId": f"head{operation.id[0].upper()}{operation.id[1:]}",
        "summary": f"{operation.summary} (headers only)",
        "description": "As GET, without the body.",
        "responses": responses,
    }


def _words(route: str) -> str:
    return "".join(word.capitalize() for word in re.findall(r"\w+", route))


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
    }
    if operation.query:
        found["parameters"] = [
            {"$ref": f"#/components/parameters/{name}"} for name in operation.query
        ]
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": _reference(operation.body)}},
        }
    responses = {
        str(status): _success(operation, status, answer)
        for status, answer in operation.answers.items()
    }
    if operation.has_head and operation.answers[200] != (TEXT,):
        responses["304"] = {"description": _SUCCESSES[304]}
    for status in problem_statuses(operation):
        responses.setdefault(str(status), _problem_reference(status))
    found["responses"] = dict(sorted(responses.items()))
    if operation.id in {"createJob", "putJob", "retryJob"}:
        found["responses"]["200"]["links"] = _links()
    return found


def problem_statuses(operation: Operation) -> set[int]:
    """Every problem that *operation* may be answered with."""
    statuses = {*operation.problems, *_everywhere(operation.path)}
    if operation.stored:
        statuses.add(503)
    return statuses


def _everywhere(path: str) -> frozenset[int]:
    # It needs no credentials.
    return EVERYWHERE - {401} if path == "/healthcheck" else EVERYWHERE


def _success(
    operation: Operation, status: int, answer: type[Any] | tuple[str, ...] | None
) -> dict[str, Any]:
    # The handshake is Tornado's own and has the headers of RFC 6455 only.
    headers = () if status == 101 else ("X-Request-ID", *operation.headers)
    found: dict[str, Any] = {
        "description": _SUCCESSES.get(status, "The storage is not well."),
        **({"headers": _headers(*headers)} if headers else {}),
    }
    if isinstance(answer, tuple):
        kind = {"type": "object"} if answer == (JSON,) else {"type": "string"}
        found["content"] = {media: {"schema": kind} for media in answer}
    elif answer is not None:
        found["content"] = {JSON: {"schema": _reference(answer)}}
    if status == 503:
        # The health's own, or a problem, such as one of the server's.
        found["content"][PROBLEM] = {"schema": _reference(problems.ProblemDetails)}
    return found


def _problem(status: int) -> dict[str, Any]:
    description, headers = PROBLEMS[status]
    model = problems.PayloadProblem if status == 400 else problems.ProblemDetails
    return {
        "description": description,
        "headers": _headers("X-Request-ID", *headers),
        "content": {PROBLEM: {"schema": _reference(model)}},
    }


def _problem_reference(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/Problem{status}"}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _reference(model: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _links() -> dict[str, Any]:
    job = {"task": "$response.body#/taskId", "job": "$response.body#/jobId"}
    execution = {**job, "execution": "$response.body#/executionId"}
    return {
        "job": {"operationId": "getJob", "parameters": job},
        "stop": {"operationId": "stopJob", "parameters": job},
        "execution": {"operationId": "getExecution", "parameters": execution},
        "logs": {"operationId": "getExecutionLogs", "parameters": execution},
    }
