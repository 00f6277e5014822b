"""The OpenAPI 3.1 document, derived from the table of routes and from the models.

Each path is documented under its canonical spelling, which ends with a slash as the reference
writes it. Every other spelling that leads there is in ``x-fastlane-spellings``.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from fastlane.api.lookup import TASK_ID_MAX_CHARS
from fastlane.api.operations import EVENT_STREAM, HTML, JSON, PROBLEM, TEXT, Operation, Route
from fastlane.api.parameters import Parameter
from fastlane.api.schemas.build import added_keys
from fastlane.api.schemas.payload import JobPayload, job_payload
from fastlane.api.schemas.responses import PayloadProblem, ProblemDetails
from fastlane.api.security import Role

TAGS: Mapping[str, str] = {
    "Tasks": "A task groups jobs under a name that you choose.",
    "Jobs": "A job says what to run and when.",
    "Executions": "An execution is one run of a job.",
    "Output": "What an execution writes: as text, as a page, as a stream.",
    "Notifications": "Notifications that are pending or could not be delivered.",
    "Server": "The state of the server, and what it says about itself.",
}

_TASK_ID = {
    "type": "string",
    "minLength": 1,
    "maxLength": TASK_ID_MAX_CHARS,
    # No slash, no control character, no space at either end.
    "pattern": r"^[^\s/\x00-\x1f\x7f-\x9f]([^/\x00-\x1f\x7f-\x9f]*[^\s/\x00-\x1f\x7f-\x9f])?$",
}


def _in_path(name: str, description: str, example: str, schema: Any = None) -> Parameter:
    schema = schema or {"type": "string", "format": "uuid"}
    return Parameter(name, description, schema, "path", required=True, example=example)


IN_PATHS: Mapping[str, Parameter] = {
    one.name: one
    for one in (
        _in_path("task", "Any name, percent-encoded.", "test-wrkng", _TASK_ID),
        _in_path(
            "job",
            "The job's id, a UUID4, or its name.",
            "5a023792-1445-44e9-8a8b-cfe5ad05d1c6",
            {"type": "string", "maxLength": 100, "pattern": r"^[0-9A-Za-z][0-9A-Za-z._-]*$"},
        ),
        _in_path("execution", "The execution's id.", "36e1b166-7c7a-4a41-a69e-8f78a9ec8128"),
        _in_path("notification", "The notification's id.", "ba4ff7d1-57a0-5a6d-8b0f-2a4f0bd4ba3c"),
        _in_path("name", "The file's name.", "fastlane.css", {"type": "string"}),
    )
}

# Name, type, description.
_HEADERS = (
    ("X-Request-ID", "string", "Yours, or a new one. It is in every log line of the request."),
    ("Fastlane-Version", "string", "The server's version, for those who may read."),
    ("Fastlane-Status", "string", "The execution's status; `scheduled` when there is none yet."),
    ("Fastlane-Execution-Id", "string", "Whose log it is."),
    ("Fastlane-Reason", "string", "Why it ended, as `reason` in its details; only once it has."),
    ("Fastlane-Exit-Code", "integer", "Only once there is one."),
    ("Preference-Applied", "string", "How long was waited for the end: `wait=60`."),
    ("Content-Range", "string", "Which bytes, and of how many (RFC 9110, section 14.4)."),
    ("Idempotent-Replayed", "string", "`true` on the repeat of an earlier request."),
    ("Allow", "string", "The methods that are supported."),
    ("Retry-After", "integer", "Seconds."),
    ("WWW-Authenticate", "string", "How to send credentials."),
    ("Accept-Encoding", "string", "The encodings that are supported."),
    ("Upgrade", "string", "`websocket`."),
)
_ALWAYS = frozenset({"X-Request-ID"})

PROBLEMS: Mapping[int, tuple[str, Sequence[str]]] = {
    400: ("The request is wrong. `errors` lists everything that is wrong with a payload.", ()),
    401: ("Credentials are required.", ("WWW-Authenticate",)),
    403: ("It comes from another origin, or is not permitted.", ()),
    404: ("There is no such thing.", ()),
    409: ("Another state or another number is needed; see `detail`.", ()),
    413: ("The body exceeds MAX_BODY_BYTES.", ()),
    415: ("The body is compressed.", ("Accept-Encoding",)),
    416: ("The text has no such bytes.", ("Content-Range",)),
    421: ("The host is not in ALLOWED_HOSTS.", ()),
    422: ("The idempotency key was used for another request.", ()),
    426: ("This is a WebSocket: connect with the scheme ws or wss.", ("Upgrade",)),
    429: ("Too many at a time.", ("Retry-After",)),
    431: ("The headers exceed 64 KiB.", ()),
    500: ("Something failed inside fastlane; see its log for details.", ()),
    503: ("The storage or the server cannot do it now. Nothing was changed.", ("Retry-After",)),
    405: ("The method is not supported.", ("Allow",)),
}

EVERYWHERE = frozenset({400, 401, 403, 413, 415, 421, 431, 500})
"""Nearly any request may be answered with one of these."""

_SUCCESSES = {
    101: "The socket is open.",
    200: "Done.",
    202: "Stored; it has not ended in time, or the server stops.",
    204: "Done, or nothing more is to come.",
    206: "The part that `Range` asked for.",
    304: "Your copy is up to date.",
}

DESCRIPTION = """\
Runs container jobs for anyone who can send an HTTP request. Post an image and a command, and it
runs in a container: now, later or by cron. Runs are retried, stopped and watched live, and their
results are kept.

Every route answers with and without a slash at its end. A JSON body is read whatever its
`Content-Type` says. URLs in answers are absolute; times are UTC. Errors are
`application/problem+json` (RFC 9457), and a request that is answered with one has changed nothing.
An unknown query parameter is an error, unless its name begins with `_`. Every answer has an
`X-Request-ID`, yours or a new one. JSON is gzipped for clients that accept it.
"""


def template(path: str) -> str:
    """*path* of the table as a template of the document."""
    return re.sub(r"<(\w+)>", r"{\1}", path)


def document_path(route: Route) -> str:
    """The canonical spelling of *route*'s path. A name with an extension is a file."""
    path = template(route.path)
    return path if path.endswith((".json", "{name}")) else f"{path}/"


def spellings(route: Route) -> tuple[str, ...]:
    """Every spelling of *route*'s paths, the canonical one first."""
    canonical = document_path(route)
    found = [
        canonical,
        *(f"{template(path)}{slash}" for path in route.paths for slash in ("", "/")),
    ]
    return tuple(dict.fromkeys(found))


@cache
def document(version: str, routes: tuple[Route, ...]) -> Mapping[str, Any]:
    """The document, without ``servers``. It is shared: copy it before you change anything."""
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
        # Without credentials and with: it depends on BASIC_AUTH_USER.
        "security": [{}, {"basic": []}],
        "paths": {document_path(route): _path_item(route) for route in routes},
        "components": {
            "schemas": schemas(routes),
            "headers": {
                name: {
                    "description": description,
                    "required": name in _ALWAYS,
                    "schema": {"type": kind},
                }
                for name, kind, description in _HEADERS
            },
            "responses": {f"Problem{status}": _problem(status) for status in PROBLEMS},
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


@cache
def schemas(routes: tuple[Route, ...]) -> Mapping[str, Any]:
    """The schemas of payloads and answers, by name."""
    operations = [one for route in routes for one in route.operations.values()]
    found_answers = (answer for one in operations for answer in (one.answer, one.other))
    answers = [answer for answer in found_answers if isinstance(answer, type)]
    answers += [ProblemDetails, PayloadProblem]
    bodies = {job_payload() if one.body is JobPayload else one.body for one in operations} - {None}
    added: dict[str, Any] = {
        name: TypedDict(f"{name}OfChannels", keys)  # type: ignore[operator]
        for name, keys in added_keys().items()
    }
    models = [
        *((body, "validation") for body in bodies),
        *((answer, "serialization") for answer in (*answers, *added.values())),
    ]
    _, found = TypeAdapter.json_schemas(
        [(model.__name__, mode, TypeAdapter(model)) for model, mode in models],  # type: ignore
        ref_template="#/components/schemas/{model}",
    )
    named: dict[str, Any] = _without_titles(found["$defs"])
    for name, model in added.items():
        more = named.pop(model.__name__)
        named[name]["properties"] |= more["properties"]
        named[name]["required"] += more["required"]
    for answer in answers:
        named[answer.__name__]["examples"] = [sample(named[answer.__name__], named)]
    return named


def _without_titles(value: Any) -> Any:
    """*value* without the titles that pydantic makes of names."""
    if isinstance(value, dict):
        return {
            key: _without_titles(inner)
            for key, inner in value.items()
            # The value of a property with the name "title" is a schema.
            if not (key == "title" and isinstance(inner, str))
        }
    return [_without_titles(inner) for inner in value] if isinstance(value, list) else value


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


def _path_item(route: Route) -> dict[str, Any]:
    names = re.findall(r"<(\w+)>", route.path)
    item: dict[str, Any] = {
        "x-fastlane-spellings": list(spellings(route)),
        "parameters": [_parameter(IN_PATHS[name]) for name in names],
    }
    for method, operation in route.operations.items():
        item[method] = _operation(route, operation)
    if "HEAD" in route.methods:
        item["head"] = _head(item["get"])
    item["options"] = {
        "operationId": f"options{''.join(map(str.capitalize, re.findall(r'[a-z]+', route.path)))}",
        "tags": ["Server"],
        "summary": "The methods that this route supports",
        "responses": {
            "204": {"description": "Nothing else.", "headers": _headers("X-Request-ID", "Allow")},
            **{str(status): _problem_reference(status) for status in sorted(_everywhere(route))},
        },
    }
    return item


def _parameter(parameter: Parameter) -> dict[str, Any]:
    found = {"in": parameter.where, **asdict(parameter)}
    del found["where"]
    return {name: value for name, value in found.items() if value is not None}


def _head(get: Mapping[str, Any]) -> dict[str, Any]:
    """GET without bodies."""
    responses = {}
    for status, response in get["responses"].items():
        if status in {"204", "206", "416"}:
            continue
        whole = _problem(int(status)) if "$ref" in response else response
        responses[status] = {key: whole[key] for key in whole if key != "content"}
    name = get["operationId"]
    return {
        **get,
        "operationId": f"head{name[0].upper()}{name[1:]}",
        "summary": f"{get['summary']} (headers only)",
        "description": "As GET, without the body.",
        "responses": responses,
    }


def _operation(route: Route, operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [route.tag],
        "summary": operation.summary,
        "description": route.description(operation),
        "parameters": [_parameter(one) for one in operation.parameters],
    }
    if operation.body is not None:
        found["requestBody"] = {
            "required": operation.body_required,
            "content": {JSON: {"schema": _reference(operation.body)}},
        }
    responses: dict[str, Any] = {
        str(status): _problem_reference(status) for status in problem_statuses(route, operation)
    }
    if operation.answer is None:
        # The handshake is Tornado's own and has the headers of RFC 6455 only.
        responses["101"] = {"description": _SUCCESSES[101]}
    else:
        version = () if operation.role is Role.ANONYMOUS else ("Fastlane-Version",)
        headers = _headers("X-Request-ID", *version, *operation.headers)
        for status in operation.successes:
            response: dict[str, Any] = {"description": _SUCCESSES[status], "headers": headers}
            if status == 206:
                response["headers"] = {**headers, **_headers("Content-Range")}
            if status != 204:
                # An event is no string to some tools, and none is an object to others.
                more: dict[str, Any] = {media: {"schema": {}} for media in operation.media}
                response["content"] = _content(operation.answer) | more
            if operation.other is not None and status == 200:
                models: Any = (operation.answer, operation.other)
                either = [_reference(one) for one in models]
                response["content"] |= {JSON: {"schema": {"anyOf": either}}}
            responses[str(status)] = response
        if operation.method == "get" and not {TEXT, EVENT_STREAM} & {*_media(operation)}:
            responses["304"] = {"description": _SUCCESSES[304], "headers": _headers("X-Request-ID")}
    if operation.unavailable is not None:
        problem = _problem(503)
        content = {**_content(operation.unavailable), **problem["content"]}
        responses["503"] = {**problem, "content": content}
    found["responses"] = dict(sorted(responses.items()))
    if operation.id in {"createJob", "putJob", "retryJob", "runJob", "rerunExecution"}:
        found["responses"]["200"]["links"] = _links()
    return found


def _everywhere(route: Route) -> frozenset[int]:
    roles = {one.role for one in route.operations.values()}
    unneeded = {401} if roles == {Role.ANONYMOUS} else set()
    return EVERYWHERE - unneeded - ({421} if route.any_host else set())


def problem_statuses(route: Route, operation: Operation) -> frozenset[int]:
    """Every problem that *operation* may be answered with."""
    may_miss = "<" in route.path and operation.body is None
    return (
        _everywhere(route)
        | set(operation.problems)
        | ({404} if may_miss else set())
        | ({426} if operation.answer is None else set())
        | ({503} if operation.stored else set())
    )


def _media(operation: Operation) -> tuple[str, ...]:
    return operation.answer if isinstance(operation.answer, tuple) else operation.media


def _content(answer: type[Any] | tuple[str, ...]) -> dict[str, Any]:
    if isinstance(answer, tuple):
        kinds = {media: "object" if media == JSON else "string" for media in answer}
        return {media: {"schema": {"type": kind}} for media, kind in kinds.items()}
    return {JSON: {"schema": _reference(answer)}}


def _problem(status: int) -> dict[str, Any]:
    description, headers = PROBLEMS[status]
    model = PayloadProblem if status == 400 else ProblemDetails
    return {
        "description": description,
        "headers": _headers("X-Request-ID", *headers),
        # A browser gets errors as pages, too.
        "content": {PROBLEM: {"schema": _reference(model)}, HTML: {"schema": {"type": "string"}}},
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
