"""Much at once: runs, ticks, logs and executions, and ten minutes of work."""

from __future__ import annotations

import fcntl
import hashlib
import json
import socket
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from scripts.scoreboard import Row
from tests.cluster.instances import Cluster, Instance, Servers
from tests.eventually import wait_for
from tests.fastlane_server import FINAL
from tests.faults.conftest import Place
from tests.load import Expected, Load, digest, path_of
from tests.scoreboard import Scoreboard

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

LINE = "0123456789abcdef" * 4


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for which ``flock`` in a command waits."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_runs_at_once(tmp_path: Path, place: Place, scoreboard: Scoreboard) -> None:
    """All of them run before the first one may end."""
    count = scoreboard.scaled(2000)
    lock = tmp_path / "lock"
    with place.servers(MAX_RUNNING=str(count)) as servers:

        def make(name: str) -> Expected:
            body = servers.shell(name, f"flock -s {lock} echo {name}; exit 7")
            return Expected(body, stdout=digest(f"{name}\n"), stderr=digest(""))

        load = Load(servers, count, make=make, every_seconds=0, settle_seconds=600)
        with load.running() as report, locked(lock):
            wait_for(lambda: len(servers.starts()) >= count, "all of them to run", 600)
        scoreboard.take(report, "runs at once", place.where)


# -- ticks ----------------------------------------------------------------------------------------


def all_final(servers: Servers, path: str) -> list[dict[str, Any]] | None:
    """The executions of a job once there are some, and all of them ended."""
    found: list[dict[str, Any]] = servers.insist(path)["job"]["executions"]
    return found if found and all(each["status"] in FINAL for each in found) else None


def test_crons_on_a_minute(place: Place, scoreboard: Scoreboard) -> None:
    # What must be on time on SQLite; the cluster's figure is another issue's.
    count = scoreboard.scaled(1000 if place.where == "SQLite" else 500)
    # Until the next minute: the start, and the submissions.
    lead_seconds = 12 + count / 25
    servers = place.servers(MAX_RUNNING="16")
    for instance in servers.instances:
        instance.options["CLOCK_SKEW"] = str(60 - lead_seconds - time.time() % 60)
    with servers:
        jobs = {}
        for number in range(count):
            body = servers.shell(f"cron-{number}", "true", cron="* * * * *")
            jobs[f"cron-{number}"] = servers.instances[0].submit(f"cron-{number}", **body)["jobUrl"]
        delays: list[float] = []
        lost = twice = 0
        for name, url in jobs.items():
            path = path_of(url)
            executions = wait_for(partial(all_final, servers, path), f"{name}'s tick", 180)
            created = [datetime.fromisoformat(each["createdAt"]) for each in executions]
            delays.append(created[-1].second + created[-1].microsecond / 1e6)
            servers.request("POST", f"{path}stop/")
            lost += not executions
        for name, url in jobs.items():
            executions = wait_for(partial(all_final, servers, path_of(url)), f"{name}'s end", 180)
            ran = sum(each["status"] == "done" for each in executions)
            twice += max(servers.starts().count(name) - len(executions), 0)
            lost += max(ran - servers.starts().count(name), 0)
        delays.sort()
        p99 = delays[min(int(len(delays) * 0.99), len(delays) - 1)]
        scoreboard.add(
            Row(
                "cron jobs on one minute",
                place.where,
                count,
                "ticks",
                lost=lost,
                twice=twice,
                note=f"created after the tick: median {statistics.median(delays):.3f} s, "
                f"p99 {p99:.3f} s, last {delays[-1]:.3f} s",
            )
        )
        assert (lost, twice) == (0, 0)


# -- logs -----------------------------------------------------------------------------------------


def long_log(servers: Servers, size: int, name: str) -> Expected:
    """A job that writes *size* bytes of lines, and what they sum up to."""
    line = f"{name} {LINE}\n".encode()
    found = hashlib.sha256()
    whole, rest = divmod(size, len(line))
    for _ in range(whole):
        found.update(line)
    found.update(line[:rest])
    script = f"yes '{name} {LINE}' | head -c {size}; exit 7"
    body = servers.shell(name, script)
    return Expected(body, stdout=found.hexdigest(), stderr=digest(""))


def test_a_gigabyte_of_log(place: Place, scoreboard: Scoreboard) -> None:
    size = scoreboard.scaled(1024**3)
    with place.servers(LOG_MAX_BYTES="0") as servers:
        make = partial(long_log, servers, size)
        load = Load(servers, 1, make=make, settle_seconds=900)
        with load.running() as report:
            pass
        note = f"{size / 1024**2:.0f} MB in {report.seconds[0]:.1f} s"
        scoreboard.take(report, "a very long log", place.where, note)


def slow_viewer(stack: ExitStack, instance: Instance, path: str) -> None:
    """Watch a log by WebSocket and read none of it."""
    viewer = stack.enter_context(socket.socket())
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    viewer.connect(("127.0.0.1", instance.port))
    viewer.sendall(
        f"GET {path}ws/ HTTP/1.1\r\nHost: 127.0.0.1:{instance.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: ZmFzdGxhbmUgYmVuY2htYXI=\r\n\r\n".encode()
    )
    assert viewer.recv(12) == b"HTTP/1.1 101"


def test_long_logs_and_slow_viewers(place: Place, scoreboard: Scoreboard) -> None:
    count, size = scoreboard.scaled(50, least=4), scoreboard.scaled(50 * 1024**2)
    with ExitStack() as stack, place.servers(MAX_RUNNING=str(count)) as servers:
        make = partial(long_log, servers, size)
        load = Load(servers, count, make=make, every_seconds=0, settle_seconds=900)
        with load.running() as report:
            wait_for(lambda: len(load.accepted) == count, "all of them", 300)
            for url in load.accepted.values():
                for instance in servers.instances:
                    slow_viewer(stack, instance, path_of(url))
        note = f"{size / 1024**2:.0f} MB each, {count * len(servers.instances)} viewers"
        scoreboard.take(report, "long logs, viewers that do not read", place.where, note)


# -- a long history -------------------------------------------------------------------------------


def multiply(database: Path, execution_id: str, count: int) -> None:
    """Give a job *count* more executions, as copies of one."""
    with sqlite3.connect(database) as stored:
        names = [row[1] for row in stored.execute("PRAGMA table_info(executions)")]
        values = {name: f"e.{name}" for name in names if name != "seq"}
        values["id"] = "printf('%08x%s', i, substr(e.id, 9))"
        values["number"] = "e.number + i"
        stored.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO executions ({', '.join(values)}) SELECT {', '.join(values.values())} "
            "FROM n, executions e WHERE e.id = ?",
            (count, execution_id),
        )
        stored.execute(
            "UPDATE jobs SET execution_count = execution_count + ? "
            "WHERE id = (SELECT job_id FROM executions WHERE id = ?)",
            (count, execution_id),
        )
    stored.close()


def multiply_documents(servers: Servers, execution_id: str, count: int) -> None:
    """As :func:`multiply`, in MongoDB."""
    assert isinstance(servers, Cluster)
    with MongoClient[dict[str, Any]](servers.mongodb_url) as client:
        stored = client.get_default_database()
        one = stored["executions"].find_one({"_id": execution_id})
        assert one is not None
        for first in range(1, count + 1, 10_000):
            stored["executions"].insert_many(
                {**one, "_id": f"{n:08x}{execution_id[8:]}", "number": one["number"] + n}
                for n in range(first, min(first + 10_000, count + 1))
            )
        stored["jobs"].update_one({"_id": one["job_id"]}, {"$inc": {"execution_count": count}})


def test_a_long_history(place: Place, scoreboard: Scoreboard) -> None:
    """Of one job: it is read, run again and stopped as if it were its first day."""
    count = scoreboard.scaled(100_000)
    with place.servers() as servers:
        server = servers.instances[0]
        answer = server.submit("long", **servers.body("long", pause=0, retries=0))
        path = path_of(answer["jobUrl"])
        server.await_end(path)
        if place.where == "SQLite":
            server.kill()
            multiply(Path(server.options["DATA_DIR"]) / "fastlane.db", answer["executionId"], count)
            server.start()
        else:
            multiply_documents(servers, answer["executionId"], count)
        longest, wrong = 0.0, 0
        pages = [f"{path}?page={page}" for page in (1, 2, max(count // 100, 1))]
        for url in ("/tasks/", "/tasks/long/", "/status/", path, *pages):
            began = time.monotonic()
            wrong += servers.request("GET", url)[0] != 200
            longest = max(longest, time.monotonic() - began)
        assert server.get(path)["job"]["executionCount"] == count + 1
        began = time.monotonic()
        (status, _), starts = servers.request("POST", f"{path}retry/"), servers.starts()
        wrong += status != 200
        again = Load(servers, 20, every_seconds=0)
        with again.running() as report:
            wait_for(lambda: servers.starts().count("long") > starts.count("long"), "the retry")
            retry_seconds = time.monotonic() - began
        report.wrong_answers += ["a page"] * wrong
        scoreboard.add(
            Row(
                "a job with a long history",
                place.where,
                count,
                "executions",
                wrong_answer=wrong,
                lost=len(report.lost),
                note=f"longest answer {longest:.2f} s, started again after {retry_seconds:.2f} s",
            )
        )
        report.check()


# -- ten minutes ----------------------------------------------------------------------------------

# By how much the median of the last quarter may exceed that of the second one.
GROWTH = {"memory": 32 * 1024**2, "descriptors": 16, "tasks": 16, "threads": 8}


def trend(path: Path) -> dict[str, tuple[float, float]]:
    """The medians of the second and the last quarter of what a server held."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    quarter = len(lines) // 4
    return {
        key: (
            statistics.median(line[key] for line in lines[quarter : 2 * quarter]),
            statistics.median(line[key] for line in lines[-quarter:]),
        )
        for key in GROWTH
    }


def test_soak(tmp_path: Path, place: Place, scoreboard: Scoreboard) -> None:
    seconds = scoreboard.scaled(600, least=20)
    servers = place.servers(MAX_RUNNING="16")
    for number, instance in enumerate(servers.instances):
        instance.options["VITALS"] = str(tmp_path / f"vitals-{number}")
    with servers:
        began = time.monotonic()
        total = Load(servers, int(seconds / 0.25), pause=0.02, every_seconds=0.25)
        with total.running() as report:
            pass
        assert time.monotonic() - began >= seconds
        trends = [trend(tmp_path / f"vitals-{n}") for n in range(len(servers.instances))]
        note = ", ".join(
            f"{key} {max(t[key][0] for t in trends):.0f} → {max(t[key][1] for t in trends):.0f}"
            for key in GROWTH
        )
        scoreboard.take(report, "steady work", place.where, f"{seconds} s: {note}")
        for each in trends:
            for key, (before, after) in each.items():
                assert after - before <= GROWTH[key], (key, trends)
