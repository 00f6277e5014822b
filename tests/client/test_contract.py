"""The client has the whole contract: a method for each operation, a key for each key."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from fastlane import model
from fastlane_client import decoding, payload, records
from fastlane_client.client import ClientMethods
from fastlane_client.core import Core, Request, decode_query
from fastlane_client.runs import RunId, RunMethods
from fastlane_client.styles import _Method
from tests.api.contract import DOCUMENT

METHODS = ("get", "post", "put", "delete")
# Files of pages, the list of routes, sockets (the client has long polls), and another spelling.
NOT_CALLED = {
    *("getAsset", "getIndex"),
    *("streamJob", "streamExecution", "streamEvents"),
    "alsoBlacklistHost",
}
# Of each parameter of a method, what it is called with.
SAMPLES: Mapping[str, Any] = {
    "task": "t",
    "job": "j",
    "execution": "e",
    "query": "q",
    "from_job": "j",
    "q": "q",
    "payload": {},
    "which": {},
    "host": "h:1",
    "notification": "n",
    "method": "GET",
    "path": "/tasks/",
    "dry_run": True,
    "per_page": 5,
    "state": "failed",
    "kind": "cron",
    "force": True,
    "regex": True,
    "case": True,
    "stream": "stdout",
    "tail": 5,
    "line": 7,
    "since": "1h",
    "until": "1m",
    "status": ["done", "failed"],
    "step": "1h",
    "farm": "default",
}
# Further ones of some methods.
MORE: Mapping[str, Mapping[str, Any]] = {
    "events": {"after": "c", "type": "execution.*"},
    "executions": {"reason": "oom", "trigger": "cron"},
}
# What is not for the user of a client to say.
NOT_OFFERED = {
    "page",
    "after",
    "cursor",
    "format",
    "limit",
    "wait",
    "follow",
    "times",
    "from",
    "as",
    "line",
}


class Owner:
    """Stands in for a client, and for a run of one execution or of a job."""

    def __init__(self, run_id: RunId | None = None) -> None:
        self._core = Core("http://localhost")
        self.id = run_id

    def __getattr__(self, name: str) -> Any:
        for kind in (ClientMethods, RunMethods):
            if hasattr(kind, name):
                return getattr(kind, name).__get__(self)
        raise AttributeError(name)


def methods(kind: type) -> dict[str, _Method]:
    return {name: one for name, one in vars(kind).items() if isinstance(one, _Method)}


def arguments_of(method: _Method) -> dict[str, Any]:
    names = inspect.signature(method.method).parameters
    return {name: SAMPLES[name] for name in names if name in SAMPLES}


def first_request(method: _Method, owner: Owner, given: Mapping[str, Any]) -> Request:
    """The first request that *method* sends when it is called with *given*."""
    operation = method.method(owner, **given)
    step = next(operation)
    operation.close()
    assert isinstance(step, Request)
    return step


def all_requests() -> Iterator[tuple[str, Request]]:
    """What each method sends, by its name."""
    for name, method in methods(ClientMethods).items():
        given = {**arguments_of(method), **MORE.get(name, {})}
        if name == "api":
            continue
        if "from_job" in inspect.signature(method.method).parameters:
            # With a job it is a PUT, without it a POST.
            yield name, first_request(method, Owner(), given | {"from_job": None})
            given.pop("job")
        yield name, first_request(method, Owner(), given)
    for execution in ("e", None):
        owner = Owner(RunId("t", "j", execution))
        for name, method in methods(RunMethods).items():
            given = arguments_of(method)
            yield f"run.{name}", first_request(method, owner, given)
            if name == "output":
                for output in ("stdout", "stderr"):
                    yield f"run.{name}", first_request(method, owner, given | {"output": output})


def operations() -> Iterator[tuple[str, str, re.Pattern[str], Mapping[str, Any]]]:
    """Each operation: its id, its method, its path as a pattern, and all of it."""
    for path, item in DOCUMENT["paths"].items():
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path.rstrip("/"))) + "/?")
        for method in METHODS:
            if method in item:
                yield item[method]["operationId"], method.upper(), pattern, item[method]


SENT = list(all_requests())


def is_page(operation: Mapping[str, Any]) -> bool:
    """Whether it is for browsers only."""
    return list(operation["responses"].get("200", {}).get("content", ())) == ["text/html"]


def test_every_operation_has_a_method() -> None:
    missing = {
        id_
        for id_, method, pattern, operation in operations()
        if not is_page(operation)
        and not any(
            one.method == method and pattern.fullmatch(one.path.partition("?")[0])
            for _, one in SENT
        )
    }
    assert missing - NOT_CALLED == set()


@pytest.mark.parametrize(
    ("name", "request_"), SENT, ids=[f"{name} {one.method} {one.path}" for name, one in SENT]
)
def test_every_method_sends_what_the_server_knows(name: str, request_: Request) -> None:
    found = [
        operation
        for _, method, pattern, operation in operations()
        if method == request_.method and pattern.fullmatch(request_.path)
    ]
    assert found, f"{name}: {request_.path}"
    for operation in found[:1]:
        known = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        sent = {key for key, _ in decode_query(request_.query)}
        assert sent <= known, f"{name}: {request_.path}"


def test_every_parameter_of_a_list_can_be_given() -> None:
    for id_, method, pattern, operation in operations():
        if id_ in NOT_CALLED:
            continue
        known = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        sent = {
            key
            for _, one in SENT
            if one.method == method and pattern.fullmatch(one.path)
            for key, _ in decode_query(one.query)
        }
        assert known - sent <= NOT_OFFERED, id_


def test_every_key_of_the_payload_is_an_argument() -> None:
    known = set(DOCUMENT["components"]["schemas"]["JobPayload"]["properties"])
    names = set(inspect.signature(payload.payload_of).parameters) - {"extra"}
    anything: dict[str, Any] = dict.fromkeys(names, "1")
    sent = payload.payload_of(**anything)
    assert set(sent) == known
    assert names <= set(inspect.signature(ClientMethods.submit.method).parameters)


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (records.Execution, "Execution"),
        (records.ExecutionMetadata, "ExecutionMetadata"),
        (records.Retry, "FollowingRetry"),
        (records.Task, "TaskItem"),
        (records.TaskJob, "JobItem"),
        (records.Job, "Job"),
        (records.Host, "Host"),
        (records.Farm, "FarmStatus"),
        (records.ServerStatus, "ServerStatus"),
        (records.Health, "Health"),
        (records.Attempt, "Dispatch"),
        (records.Notification, "Notification"),
        (records.ExecutionItem, "ExecutionItem"),
        (records.LastExecution, "LastExecution"),
        (records.FarmHosts, "FarmItem"),
        (records.FarmHost, "HostItem"),
        (records.HostRun, "RunOnHost"),
        (records.Engine, "EngineVersion"),
        (records.Plan, "DryRun"),
        (records.JobItem, "JobListItem"),
        (records.Stats, "Stats"),
        (records.Step, "StatsItem"),
        (records.Quantiles, "Quantiles"),
        (records.Event, "fastlane__api__schemas__responses__events__Event"),
    ],
)
def test_the_keys_of_a_record_are_those_of_the_answer(kind: type, schema: str) -> None:
    plan = decoding._plan(kind)
    keys = {key for _, key, _, _ in plan}
    assert keys - set(DOCUMENT["components"]["schemas"][schema]["properties"]) <= ADDED.get(
        schema, set()
    )


# Keys that are in other answers than the one that is named.
ADDED = {
    "Execution": {"retry"},
    "TaskItem": {"lastExecution"},
    "JobItem": {"lastExecution", "name"},
    "Job": {"name"},
}


def test_enums_have_the_values_of_the_answers() -> None:
    for ours, theirs in (
        (records.Reason, model.Reason),
        (records.Trigger, model.Trigger),
        (records.Stream, model.Stream),
        (records.PullPolicy, model.PullPolicy),
        (records.Overlap, model.Overlap),
        (records.DeliveryState, model.DeliveryState),
    ):
        assert {one.value for one in ours.__members__.values()} == {one.value for one in theirs}
    assert {one.value for one in records.Status.__members__.values()} == {
        "scheduled",
        *(one.value for one in model.Status),
    }
