"""``?times=``: every JSON route answers its times in the form that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from fastlane.model import Outcome, Reason, Status
from tests.api.http_site import Site
from tests.api.test_lists import finish

REFERENCE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
# What a user gives comes back as it was given.
THEIRS = "2019-01-17T15:13:02.754000"


def times_in(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values in an answer whose keys are those of times, and all that look like times."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from times_in(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from times_in(inner, path)
    elif value is not None and (
        re.search(r"(At|/time|scheduledFor|expiration|/at)$", path)
        or (isinstance(value, str) and REFERENCE.match(value))
    ):
        yield path, value


@pytest.fixture
async def full(still: Site) -> Site:
    await still.submit("a", metadata={"createdAt": THEIRS}, webhooks={"fails": []})
    await finish(still, Outcome(Status.FAILED, Reason.EXIT_CODE, exit_code=1))
    await still.submit("a", startAt=2_000_000_000, expiration=2_000_000_100)
    await still.submit("b", cron="0 3 * * *")
    await still.storage.hosts.all()
    return still


async def test_times_of_every_route(full: Site) -> None:
    (task,) = [one for one in (await full.get("/tasks/a/")).json["jobs"] if one["lastExecution"]]
    execution = (await full.get(task["url"])).json["job"]["executions"][0]["url"]
    for url in (
        "/tasks/?",
        "/search/?query=a",
        "/tasks/a/?",
        f"{task['url']}?",
        f"{execution}?",
        "/executions/?",
        "/jobs/?",
        "/hosts/?",
        "/stats/?since=2h",
        "/status/?",
        "/notifications/?",
        "/healthcheck/?",
    ):
        own = (await full.get(url)).json
        expected = dict[str, int]()
        for form in ("rfc3339", "unix", "reference"):
            found = (await full.get(f"{url}&times={form}")).json
            assert found.keys() == own.keys()
            times = [(path, at) for path, at in times_in(found) if at != THEIRS]
            assert len(times) == expected.setdefault("count", len(times)), url
            for path, at in times:
                if form == "unix":
                    assert isinstance(at, float | int), (url, path, at)
                else:
                    assert isinstance(at, str), (url, path, at)
                    suffix = "Z" if form == "rfc3339" else ""
                    assert REFERENCE.sub("", at) == suffix, (url, path, at)
        if url not in {"/healthcheck/?", "/hosts/?", "/notifications/?"}:
            assert expected["count"], url
    kept = (await full.get(f"{task['url']}?times=unix")).json["job"]["metadata"]["custom"]
    assert kept == {"createdAt": THEIRS}


async def test_links_keep_the_form(full: Site) -> None:
    page = (await full.get("/executions/?perPage=1&times=unix")).json
    assert page["nextUrl"] is None
    page = (await full.get("/tasks/?perPage=1&times=unix")).json
    (task,) = (await full.get(page["nextUrl"])).json["items"]
    assert isinstance(task["createdAt"], float)


async def test_another_form_is_refused_before_anything_is_done(full: Site) -> None:
    before = await full.counts()
    answer = await full.post("/tasks/a/?times=iso", {"image": "a", "command": "b"})
    assert 'times is "iso"; it must be "rfc3339" or' in answer.problem(400)["detail"]
    assert await full.counts() == before
