"""What the server looks at for a page of a list, with 100,000 executions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from fastlane.model import JobState, Reason, Status, Trigger
from fastlane.storage.base import ExecutionFilter, JobFilter
from fastlane.storage.lists import MOST_COUNTED, MOST_READ
from fastlane.storage.mongo import ClusterStorage
from fastlane.storage.mongo.records import execution_doc
from tests.cluster.test_query_plans import Commands, _looked_at
from tests.contracts.test_storage import NOW, make_execution, make_job, new_id
from tests.services import MongoServer
from tests.storage_calls import wrap

COUNT = 100_000
SIZE = 20
# A page, one more, and a key or two for each range that is merged.
EXACT = 150
JOB = new_id()
FAILED = frozenset({Status.FAILED})
FILTERS: dict[str, tuple[dict[str, Any], int]] = {
    "all": ({}, EXACT),
    "task": ({"task_id": "rare"}, EXACT),
    "task, which has many": ({"task_id": "many"}, EXACT),
    "task and status": ({"task_id": "many", "statuses": FAILED}, EXACT),
    "task and since": ({"task_id": "many", "since": NOW + 50_000}, EXACT),
    "job": ({"job_id": JOB}, EXACT),
    "status": ({"statuses": FAILED}, EXACT),
    "waiting": ({"statuses": frozenset({Status.ENQUEUED})}, EXACT),
    "status and since": ({"statuses": FAILED, "since": NOW + 50_000}, EXACT),
    "reason": ({"reasons": frozenset({Reason.OOM})}, EXACT),
    "trigger": ({"triggers": frozenset({Trigger.MANUAL})}, EXACT),
    "farm": ({"farm": "gpu"}, EXACT),
    "host": ({"host": "h:7"}, EXACT),
    "since": ({"since": NOW + 99_000}, EXACT),
    "until": ({"until": NOW + 50_000}, EXACT),
    "several": ({"statuses": FAILED, "host": "h:7", "farm": "nowhere"}, MOST_READ),
    "beginning of few tasks that have many": ({"task_prefix": "m"}, EXACT),
    "beginning of many": ({"task_prefix": "t"}, MOST_READ),
}


@pytest.fixture(scope="module")
def url(mongo_server: MongoServer) -> Iterator[str]:
    """A database that is full."""
    with MongoClient[dict[str, Any]](mongo_server.url) as client:
        base = execution_doc(make_execution(make_job()), {"seq": 0})
        for name in ("delayed", "enqueued_of", "first_of_tick", "definition"):
            base.pop(name, None)
        executions = client["lists"].executions
        for first in range(0, COUNT, 10_000):
            docs = [_doc(base, number) for number in range(first, first + 10_000)]
            executions.insert_many(docs, ordered=False)
        names = ("many", *(f"t{number}" for number in range(100)))
        client["lists"].tasks.insert_many([{"_id": name} for name in names])
        yield mongo_server.url.replace("/fastlane", "/lists")
        client.drop_database("lists")


def _doc(base: dict[str, Any], n: int) -> dict[str, Any]:
    failed, waits = n % 50 == 1, n % 100 == 99
    status = "enqueued" if waits else "failed" if failed else "done"
    own = {
        "_id": f"e{n}",
        "seq": n,
        "number": n,
        "job_id": JOB if n % 10 == 3 else f"j{n}",
        "task_id": "rare" if n == 17 else "many" if n % 2 else f"t{n}",
        "status": status,
        "farm": "gpu" if n % 9 == 0 else "default",
        "host": f"h:{n % 8}",
        "trigger": "manual" if n % 1000 == 0 else "submit",
        "created_at": NOW + n,
    }
    if waits:
        return {**base, **own, "enqueued_of": own["job_id"], "queue": n}
    return {**base, **own, "reason": "oom" if n % 500 == 1 else "exit-code", "over": NOW + n + 1}


@pytest.mark.slow
async def test_a_page_looks_at_a_page(url: str) -> None:
    commands = Commands()
    monitoring.register(commands)
    storage = ClusterStorage(url)
    await storage.open()
    try:
        assert storage._db._indexing is not None
        await storage._db._indexing
        wrap(storage, "lists.executions", lambda call: commands.during("lists")(call))
        middle = f"{NOW + COUNT / 2!r}_{COUNT // 2}"
        too_much = []
        with MongoClient[dict[str, Any]](url) as client:
            for name, (given, most) in FILTERS.items():
                for after in (None, str(COUNT // 2) if name == "job" else middle):
                    commands.sent.clear()
                    wanted = ExecutionFilter(**given)
                    page = await storage.lists.executions(wanted, size=SIZE, after=after)
                    assert page.items or after or name == "several", name
                    for command in commands.sent["lists"]:
                        kind = next(iter(command))
                        count = kind == "aggregate" and "$group" in str(command["pipeline"])
                        bound = MOST_COUNTED + EXACT if count else most
                        seen = _looked_at(client["lists"], command)
                        if seen > bound:
                            too_much.append(f"{name} after {after}: {seen} {command}")
        assert not too_much, "\n".join(too_much)
        for state in JobState:
            await storage.lists.jobs(JobFilter(state=state), size=SIZE)
    finally:
        commands.operation = None
        await storage.close()
