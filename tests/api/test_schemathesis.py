"""schemathesis sends what the document allows, and what it does not, to a live server.

Every answer must be one that the document describes, none a 5xx, and what the document does not
allow must be refused. The time is bounded by the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from fastlane.model import Definition, Schedule
from tests.api.contract import DOCUMENT
from tests.api.live import Live, live_server
from tests.eventually import eventually

# Bounds the time: examples for each operation, beside those that walk along the document's limits.
EXAMPLES = 5

load_all_checks()


def checks(*names: str) -> list[Any]:
    return CHECKS.get_by_names(list(names))


# Some rules are beyond a schema: whether a cron can tick, that no two times are given at once.
NOT_A_RULE = checks("positive_data_acceptance")
# OPTIONS tells of a route, whatever the ids in its path.
NOT_OF_OPTIONS = checks("negative_data_rejection")
# The schemas describe the answers without `times`, which gives their times in another form.
OF_SCHEMAS = checks("response_schema_conformance")
OF_ANSWERS = checks(
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

schema = schemathesis.openapi.from_dict({**DOCUMENT, "servers": [{"url": "/"}]})


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("live")) as live:
        yield live


@pytest.fixture(scope="module")
def places(live: Live) -> dict[str, str]:
    """What stands for the names in a path when something is to be found there."""

    async def run_one() -> dict[str, str]:
        submitted = await live.server.lifecycle.submit(
            task_id="tests",
            job_id=None,
            definition=Definition.parse(image="busy:latest", command="true"),
            schedule=Schedule(),
        )
        assert submitted.execution is not None
        execution = submitted.execution

        async def ended() -> bool:
            return (await live.server.storage.executions.get(execution.id)).final

        await eventually(ended, "the end of the execution")
        return {"task": "tests", "job": submitted.job.id, "execution": execution.id}

    return live.call(run_one())


def test_of(operation_id: str) -> Any:
    @schema.include(operation_id=operation_id).parametrize()
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def test(case: schemathesis.Case[Any], live: Live, places: dict[str, str]) -> None:
        excluded = [*NOT_A_RULE, *(NOT_OF_OPTIONS if case.method == "OPTIONS" else ())]
        query, of_answers = case.query or {}, OF_ANSWERS
        if "times" in query:
            excluded += OF_SCHEMAS
            of_answers = [one for one in OF_ANSWERS if one not in OF_SCHEMAS]
        if operation_id == "followEvents":
            # A page at once: a stream does not end.
            case.headers["Accept"] = "application/json"
            if str(query.get("wait")) in map(str, range(1, 61)):
                query["wait"] = 0
        case.call_and_validate(base_url=live.url, excluded_checks=excluded)
        if "task" in case.path_parameters and case.method != "OPTIONS":
            # The same once more, where there is something.
            for name in case.path_parameters:
                case.path_parameters[name] = places[name]
            case.call_and_validate(base_url=live.url, checks=of_answers)

    return test


test_of.__test__ = False  # type: ignore[attr-defined]

# A function for each: schemathesis gives all operations of one function the same node id, and
# pytest-xdist runs a node id once.
for item in DOCUMENT["paths"].values():
    for method in ("get", "head", "post", "put", "delete", "options"):
        if method in item:
            name = item[method]["operationId"]
            globals()[f"test_{name}"] = test_of(name)
