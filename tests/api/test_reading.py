"""Listings and their pages, search, output and status: the section "Reading" of the contract."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import uuid
from typing import Any

import pytest

from fastlane.api import large
from fastlane.model import Definition, LogCap, Outcome, Reason, Schedule, Status, Stream
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site

DEFINITION = Definition.parse(image="busy:latest", command="true")
KEYS = {"hasNext", "hasPrev", "nextUrl", "page", "pages", "perPage", "prevUrl", "total"}


async def add_tasks(site: Site, count: int) -> None:
    for number in range(count):
        await site.server.lifecycle.submit(
            task_id=f"task-{number:03}", job_id=None, definition=DEFINITION, schedule=Schedule()
        )


async def walk(site: Site, url: str, key: str = "nextUrl") -> list[dict[str, Any]]:
    """The pages from *url* on."""
    pages = []
    following: str | None = url
    while following is not None:
        page = (await site.get(following)).json
        assert set(page) >= KEYS
        assert page["hasNext"] == (page["nextUrl"] is not None)
        assert page["hasPrev"] == (page["prevUrl"] is not None)
        pages.append(page)
        following = page[key]
    return pages


# -- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (10, [10]), (11, [10, 1]), (25, [10, 10, 5])]
)
async def test_pages_of_tasks(still: Site, count: int, sizes: list[int]) -> None:
    await add_tasks(still, count)
    for url in ("/tasks/", "/search/?query=task"):
        pages = await walk(still, url)
        assert [len(page["items"]) for page in pages] == sizes
        assert [page["page"] for page in pages] == list(range(1, len(sizes) + 1))
        assert {page["total"] for page in pages} == {count}
        assert {page["pages"] for page in pages} == {-(-count // 10)}
        assert {page["perPage"] for page in pages} == {10}
        names = [item["taskId"] for page in pages for item in page["items"]]
        assert len(set(names)) == count
        back = await walk(still, pages[-1]["prevUrl"] or url, "prevUrl")
        assert [page["page"] for page in back] == list(range(max(1, len(sizes) - 1), 0, -1))


async def test_pages_keep_what_was_asked(still: Site) -> None:
    """Size and query stay in the links; a page by its number is the same as by its link."""
    await add_tasks(still, 7)
    for url in ("/tasks/?perPage=3", "/search/?query=task%20nothing&perPage=3"):
        pages = await walk(still, url)
        assert [len(page["items"]) for page in pages] == [3, 3, 1]
        for number, page in enumerate(pages, 1):
            assert (await still.get(f"{url}&page={number}")).json["items"] == page["items"]
    beyond = (await still.get("/tasks/?page=1000000000")).json
    assert (beyond["items"], beyond["hasNext"], beyond["hasPrev"]) == ([], False, True)
    last = (await still.get(beyond["prevUrl"])).json
    assert (last["page"], len(last["items"])) == (1, 7)
    assert (await still.get("/tasks/?perPage=100")).json["perPage"] == 100


async def test_jobs_of_a_task(still: Site) -> None:
    """Newest first, by 100."""
    made = []
    for _ in range(101):
        submitted = await still.server.lifecycle.submit(
            task_id="a", job_id=None, definition=DEFINITION, schedule=Schedule()
        )
        made.append(submitted.job.id)
    pages = await walk(still, "/tasks/a")
    assert [len(page["jobs"]) for page in pages] == [100, 1]
    assert [job["id"] for page in pages for job in page["jobs"]] == made[::-1]
    assert set(pages[0]["jobs"][0]) == {"id", "url", "createdAt", "lastExecution"}
    assert pages[0]["jobsCount"] == pages[0]["total"] == 101


async def test_executions_of_a_job(still: Site) -> None:
    """Pages of 20, newest first, and the count of all."""
    path = f"/tasks/a/jobs/{uuid.uuid4()}"
    made = [(await still.put(path, PAYLOAD)).json["executionId"] for _ in range(45)]
    pages = await walk(still, path)
    shown = [[each["executionId"] for each in page["job"]["executions"]] for page in pages]
    assert [len(ids) for ids in shown] == [20, 20, 5]
    assert [each for ids in shown for each in ids] == made[::-1]
    for number, ids in enumerate(shown, 1):
        found = (await still.get(f"{path}?page={number}")).json["job"]
        assert [each["executionId"] for each in found["executions"]] == ids
        assert found["executionCount"] == 45


async def test_search(still: Site) -> None:
    """Whole words, case aside, any of several, best match first."""
    for name in ("hello-world", "Hello", "world.wide_web", "hell", "job2", "été-noir"):
        await still.submit(name)
    for query, names in (
        ("hello", {"hello-world", "Hello"}),
        ("HELLO", {"hello-world", "Hello"}),
        ("hel", set()),
        ("world", {"hello-world", "world.wide_web"}),
        ("wide", {"world.wide_web"}),
        ("web", {"world.wide_web"}),
        ("job", set()),
        ("job2", {"job2"}),
        ("%C3%89T%C3%89", {"été-noir"}),
        ("nothing%20noir", {"été-noir"}),
        ("hello-world", {"hello-world", "Hello", "world.wide_web"}),
        ("", set()),
    ):
        page = (await still.get(f"/search/?query={query}")).json
        assert {item["taskId"] for item in page["items"]} == names, query
        assert page["total"] == len(names)
    best = (await still.get("/search/?query=hello+world")).json["items"][0]
    assert best["taskId"] == "hello-world"


# -- output ---------------------------------------------------------------------------------------


async def test_output_before_it_has_run(still: Site) -> None:
    """Nothing, and no exit code; the status tells why."""
    scheduled, enqueued = await still.submit(startIn="5m"), await still.submit()
    for base, status in (
        (scheduled["jobUrl"], "scheduled"),
        (enqueued["jobUrl"], "enqueued"),
        (enqueued["executionUrl"], "enqueued"),
    ):
        for name in ("logs", "stdout", "stderr"):
            answer = await still.get(f"{base}{name}/")
            assert answer.status == 200
            assert answer.body in (b"", b"\n-=-\n")
            assert answer.headers["Fastlane-Status"] == status
            assert "Fastlane-Exit-Code" not in answer.headers
            assert "Fastlane-Reason" not in answer.headers


async def test_output_of_what_never_ran_says_why(still: Site) -> None:
    owner = still.owner()
    await owner.submit()
    outcome = Outcome(Status.FAILED, Reason.PULL_FAILED, error="Image x:1 was not pulled.")
    await owner.lifecycle.finish(await owner.claim(), outcome)
    for base in (owner.job_path, owner.path):
        for name in ("logs", "stdout", "stderr"):
            answer = await still.get(f"{base}/{name}/")
            assert answer.headers["Fastlane-Status"] == "failed"
            assert answer.headers["Fastlane-Reason"] == "pull-failed"


async def test_output_while_it_runs(still: Site) -> None:
    """What has been written so far, exact bytes; the exit code only once there is one."""
    owner = still.owner()
    await owner.start()
    await owner.write(b"a\xff\x00\r\n", (Stream.STDERR, b"b"), "é".encode()[:1])
    for base in (owner.job_path, owner.path):
        answer = await still.get(f"{base}/logs")
        assert answer.body == b"a\xff\x00\r\n\xc3\n-=-\nb"
        assert answer.headers["Fastlane-Status"] == "running"
        assert "Fastlane-Exit-Code" not in answer.headers
    await owner.write("é".encode()[1:])
    assert (await still.get(f"{owner.path}/stdout")).body == b"a\xff\x00\r\n\xc3\xa9"
    await owner.finish(7)
    for base in (owner.job_path, owner.path):
        for name in ("logs", "stdout", "stderr"):
            for method in ("GET", "HEAD"):
                answer = await still.request(method, f"{base}/{name}")
                assert answer.headers["Fastlane-Exit-Code"] == "7"
                assert answer.headers["Fastlane-Status"] == "failed"


async def test_output_of_a_job_is_its_last_executions(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    await owner.write(b"first")
    await owner.finish()
    first = owner.path
    execution = (await still.post(f"{owner.job_path}/retry")).json
    assert (await still.get(f"{owner.job_path}/stdout")).headers["Fastlane-Status"] == "enqueued"
    owner.seq = 0
    await owner.claim()
    assert owner.execution is not None
    assert owner.execution.id == execution["executionId"]
    await owner.lifecycle.started(owner.execution, "run-2")
    await owner.write(b"second")
    assert (await still.get(f"{owner.job_path}/stdout")).body == b"second"
    assert (await still.get(f"{first}/stdout")).body == b"first"


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 4, 5, 1_000_000])
async def test_tail(still: Site, lines: int) -> None:
    owner = still.owner()
    await owner.start()
    stdout = b"one\ntwo\n\nfour"
    await owner.write(stdout, (Stream.STDERR, b"err\n"))
    rows = stdout.splitlines(keepends=True)
    wanted = b"".join(rows[-lines:]) if lines else b""
    for text in (f"{lines}", f"{lines:020}"):
        assert (await still.get(f"{owner.path}/stdout?tail={text}")).body == wanted
    rows = (stdout + b"\n-=-\nerr\n").splitlines(keepends=True)
    wanted = b"".join(rows[-lines:]) if lines else b""
    assert (await still.get(f"{owner.path}/logs?tail={lines}")).body == wanted


async def test_tail_of_a_long_log(still: Site) -> None:
    owner = still.owner()
    await owner.start()
    for number in range(20):
        await owner.write(b"".join(b"%07d\n" % (number * 10_000 + n) for n in range(10_000)))
    found = (await still.get(f"{owner.path}/stdout?tail=50000")).body
    assert found == b"".join(b"%07d\n" % n for n in range(150_000, 200_000))


async def test_log_in_details_is_cut_from_its_beginning(still: Site) -> None:
    """ "At most the last 64 KiB of each", and whether they were cut; characters stay whole."""
    owner = still.owner()
    await owner.start()
    await owner.write(b"x" * 65_536, (Stream.STDERR, b"y" * 65_537))
    shown = (await still.get(owner.path)).json["execution"]
    assert (shown["log"], shown["logTruncated"]) == ("x" * 65_536, False)
    assert (shown["error"], shown["errorTruncated"]) == ("y" * 65_536, True)
    await owner.write("é".encode() * 40_000 + b"z")
    shown = (await still.get(owner.path)).json["execution"]
    assert shown["logTruncated"] is True
    assert shown["log"].endswith("éz")
    assert len(shown["log"].encode()) <= 65_536 + 3


async def test_large_answers_leave_the_loop(still: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are encoded and compressed in a thread, and are the same as any other answer."""
    threads = []
    encode = large.encode

    def observed(*args: Any, **keys: Any) -> large.Encoded:
        threads.append(threading.current_thread())
        return encode(*args, **keys)

    monkeypatch.setattr(large, "encode", observed)
    owner = still.owner()
    await owner.start()
    small = await still.get(owner.path)
    assert threads == []
    await owner.write(b"x\n" * 100_000, (Stream.STDERR, b"\0\xff" * 100_000))
    for _ in range(2):
        await owner.finish(0)
        await still.post(f"{owner.job_path}/retry/")
        await owner.lifecycle.started(await owner.claim(), "run")
        owner.seq = 0
        await owner.write(b"x\n" * 100_000, (Stream.STDERR, b"\0\xff" * 100_000))
    plain = await still.get(owner.job_path)
    packed = await still.get(owner.job_path, Accept_Encoding="gzip")
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    assert len(plain.json["job"]["executions"]) == 3
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["Etag"] == plain.headers["Etag"] != small.headers["Etag"]
    again = await still.get(owner.job_path, If_None_Match=plain.headers["Etag"])
    assert (again.status, again.body) == (304, b"")


async def test_log_that_is_not_text(still: Site) -> None:
    """Regression 23: shown with replacement characters, kept to the byte."""
    owner = still.owner()
    await owner.start()
    data = bytes(range(256)) * 10
    await owner.write(data)
    assert (await still.get(owner.path)).json["execution"]["log"] == data.decode("utf-8", "replace")
    assert (await still.get(f"{owner.path}/stdout")).body == data


async def test_notes_of_the_pull_are_no_output(still: Site) -> None:
    """The server's notes are part of the text only where they stand for missing output."""
    owner = still.owner()
    await owner.start()
    pull, lost = b"[fastlane: pulling busy]\n", b"[fastlane: rotated away]\n"
    await owner.write((Stream.FASTLANE, pull))
    assert (await still.get(f"{owner.path}/stdout")).body == b""
    await owner.write(b"one\n", (Stream.FASTLANE, lost), b"two\n")
    assert (await still.get(f"{owner.path}/stdout")).body == b"one\n" + lost + b"two\n"
    assert (await still.get(f"{owner.path}/stderr")).body == b""


async def test_capped_log(still: Site) -> None:
    """What was dropped is said in its place, in each stream that holds something."""
    owner = still.owner()
    await owner.start()
    cap = LogCap(300_000, 300_000)
    for _ in range(40):
        await owner.write(b"x" * 100_000, cap=cap)
    found = (await still.get(f"{owner.path}/stdout")).body
    assert b"of this log were dropped here" in found
    assert len(found) < 2_000_000
    # The tail says so too, and the stream that held nothing lost nothing.
    assert (await still.get(f"{owner.path}/stdout?tail=9")).body == found
    assert (await still.get(f"{owner.path}/stderr")).body == b""
    assert (await still.get(f"{owner.path}/logs")).body == found + b"\n-=-\n"


# -- times and health -----------------------------------------------------------------------------


async def test_when_it_is_said(make_site: MakeSite) -> None:
    """Times are UTC, with six digits, without a suffix."""
    site = await make_site(still=True, clock=lambda: 1_547_737_982.754)
    created = await site.submit(startIn="1m30s")
    job = (await site.get(created["jobUrl"])).json["job"]
    assert job["createdAt"] == job["lastModifiedAt"] == "2019-01-17T15:13:02.754000"
    assert job["nextScheduledAt"] == "2019-01-17T15:14:32.754000"


async def test_numbers_are_whole_where_they_can_be(still: Site) -> None:
    for given, shown in ((None, 1800), (30, 30), (30.0, 30), (0.5, 0.5), (1800, 1800)):
        keys: dict[str, Any] = {} if given is None else {"timeout": given}
        created = await still.submit(**keys)
        timeout = (await still.get(created["jobUrl"])).json["job"]["metadata"]["timeout"]
        assert (timeout, type(timeout)) == (shown, type(shown))


async def test_status(make_site: MakeSite) -> None:
    """The reference's keys, the queues, hosts with their load, what is scheduled."""
    site = await make_site(max_running=1)
    running, waiting = await site.submit("one"), await site.submit("two")
    scheduled = await site.submit("three", cron="0 0 1 1 *")
    later = await site.submit("four", startIn="1h")
    await site.run_of(running)
    await site.status(running, "running")
    status = (await site.get("/status/")).json
    assert status["executor"] == "memory"
    assert status["version"]
    (host,) = status["hosts"]
    assert (host["host"], host["port"]) == ("localhost", 1234)
    assert (host["running"], host["maxRunning"]) == (1, 1)
    (container,) = status["containers"]["running"]
    assert container["id"] == f"run-{running['executionId']}"
    assert (container["host"], container["port"]) == ("localhost", 1234)
    assert set(status["queues"]) >= {"jobs", "monitor", "error", "webhooks", "notify", "scheduled"}
    assert status["queues"]["jobs"]["length"] == 1
    assert status["queues"]["monitor"]["length"] == 1
    assert status["queues"]["scheduled"]["length"] == 2
    assert status["jobs"]["count"] == status["tasks"]["count"] == 4
    soonest, other = status["jobs"]["scheduled"]
    assert soonest["url"] == later["jobUrl"]
    assert other["url"] == scheduled["jobUrl"]
    assert other["task"] == {"id": "three", "url": scheduled["taskUrl"]}
    assert other["nextScheduledAt"][5:] == "01-01T00:00:00.000000"
    assert (await site.post(other["stopUrl"])).status == 200
    assert len((await site.get("/status/")).json["jobs"]["scheduled"]) == 1
    assert (await site.execution(waiting))["status"] == "enqueued"


async def test_waiting_tells_how_many_start_before(make_site: MakeSite) -> None:
    site = await make_site(max_running=1)
    running = await site.submit("many")
    await site.run_of(running)
    await site.status(running, "running")
    waiting = [await site.submit("many") for _ in range(3)] + [await site.submit("single")]
    told = [(await site.execution(one))["metadata"]["waiting"] for one in waiting]
    full = "Farm default runs 1 executions, the most it may run at a time."
    assert told == [
        full,
        f"{full} At least 1 execution starts before this one.",
        f"{full} At least 2 executions start before this one.",
        full,
    ]


async def test_waiting_tells_that_a_task_has_its_share(make_site: MakeSite) -> None:
    farm = {"hosts": ["localhost:1234"], "maxRunning": 9, "maxRunningPerTask": 1}
    site = await make_site(docker_hosts=json.dumps([farm]))
    running = await site.submit("many")
    await site.run_of(running)
    await site.status(running, "running")
    waiting = await site.submit("many")
    told = (await site.execution(waiting))["metadata"]["waiting"]
    assert told == (
        'Task "many" runs 1 executions, the most that farm default runs of one task at a time.'
    )
    other = await site.submit("other")
    await site.run_of(other)


async def test_json_whatever_it_calls_itself(still: Site) -> None:
    """ "A JSON body is read whatever the Content-Type says.\""""
    for content_type in (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "text/plain; charset=latin-1",
        "nonsense",
        "",
    ):
        answer = await still.post(
            "/tasks/a", b'{"image": "a&b=c", "command": "x"}', Content_Type=content_type
        )
        assert "a&b=c" in answer.problem(400)["errors"][0]["message"]
        answer = await still.post("/tasks/a", b'{"image":"x","command":"\xc3\xa9"}')
        assert (await still.execution(answer.json))["command"] == "é"


async def test_command_and_metadata_come_back_as_they_were(still: Site) -> None:
    metadata = {"nested": {"list": [1, 2.5, None, True, "é☃🐳"]}, "": "", "a/b": "<script>"}
    command = ["sh", "-c", "echo 'a  b' \"$HOME\"", "", "é\n"]
    created = await still.submit(command=command, metadata=metadata)
    job = (await still.get(created["jobUrl"])).json["job"]
    assert job["metadata"]["custom"] == metadata
    assert job["command"] == job["executions"][0]["command"] == command


async def test_many_at_once(still: Site) -> None:
    """Each request is answered with its own."""
    answers = await asyncio.gather(*(still.submit(f"task-{number}") for number in range(50)))
    assert [answer["taskId"] for answer in answers] == [f"task-{number}" for number in range(50)]
    assert (await still.counts()).jobs == 50


async def test_a_job_is_modified_when_its_last_execution_ends(site: Site) -> None:
    """As in the reference, where both times are the same."""
    submitted = await site.submit()
    (await site.run_of(submitted)).end(0)
    execution = await site.status(submitted, "done")
    job = (await site.get(submitted["jobUrl"])).json["job"]
    assert job["lastModifiedAt"] == execution["finishedAt"]
