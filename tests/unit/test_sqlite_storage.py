"""What is the embedded storage's own: group commit, the lock, the plans of its queries, faults."""

# ruff: noqa: ASYNC220, ASYNC240 (a test looks at the disk and at its child, nobody waits for it)

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import structlog

from fastlane.errors import NotFound, StorageInUse, StorageUnavailable
from fastlane.model import Reason, Status
from fastlane.storage.base import PageRequest
from fastlane.storage.sqlite import (
    SqliteStorage,
    changes,
    executions,
    hosts,
    instances,
    jobs,
    logs,
    outbox,
    place,
    tasks,
)
from fastlane.storage.sqlite import (
    storage as storage_module,
)
from fastlane.storage.sqlite.connections import connect_writer
from fastlane.storage.sqlite.place import DATABASE_NAME, LOCK_NAME, Place
from fastlane.storage.sqlite.writer import Writer
from tests.contracts.test_storage import NOW, claim, claimed, make_execution, make_job, submit

# Bounds the wait for a child process, in seconds.
CHILD_TIMEOUT = 30.0


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def storage(data_dir: Path) -> AsyncIterator[SqliteStorage]:
    storage = SqliteStorage(data_dir)
    await storage.open()
    yield storage
    await storage.close()


# -- the group commit -------------------------------------------------------------------------


async def test_concurrent_submits_share_commits(storage: SqliteStorage) -> None:
    await asyncio.gather(*[submit(storage) for _ in range(500)])
    assert (await storage.overview()).queued == 500
    assert storage.commits <= 10


async def test_a_lone_write_is_one_commit(storage: SqliteStorage) -> None:
    await submit(storage)
    assert storage.commits == 1


async def test_an_operation_that_raises_undoes_only_itself(tmp_path: Path) -> None:
    writer = Writer(connect_writer(tmp_path / "x.db"), Place(tmp_path))

    def add(connection: sqlite3.Connection, name: str, *, fail: bool) -> None:
        connection.execute(jobs.CREATE_TASK, (name, NOW, NOW, 0))
        if fail:
            raise NotFound(name)

    ended = await asyncio.gather(
        *[
            writer.run(lambda connection, n=n: add(connection, str(n), fail=n % 2 == 1))  # type: ignore[misc]
            for n in range(20)
        ],
        return_exceptions=True,
    )
    names = await writer.run(
        lambda connection: [row[0] for row in connection.execute("SELECT id FROM tasks")]
    )
    await writer.close()
    assert [isinstance(one, NotFound) for one in ended] == [n % 2 == 1 for n in range(20)]
    assert sorted(map(int, names)) == list(range(0, 20, 2))
    with pytest.raises(StorageUnavailable):
        await writer.run(lambda connection: None)


async def test_a_commit_that_fails_fails_all_and_the_next_one_works(
    data_dir: Path, storage: SqliteStorage
) -> None:
    pages = (data_dir / DATABASE_NAME).stat().st_size // 4096
    writer = storage._file.writer
    assert writer is not None
    await writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    job = make_job(request_ip="x" * 1_000_000)
    ended = await asyncio.gather(
        *[submit(storage) for _ in range(3)],
        storage.jobs.submit(job, make_execution(job)),
        return_exceptions=True,
    )
    assert isinstance(ended[-1], StorageUnavailable)
    for _ in range(2):
        health = await storage.check()
        assert "full" in (health["redis"] or "")
    stored = [one for one in ended if not isinstance(one, BaseException)]
    assert (await storage.overview()).jobs == len(stored)

    await writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    await submit(storage)
    assert (await storage.overview()).jobs == len(stored) + 1
    assert await storage.check() == {"mongo": None, "redis": None}


async def test_a_lock_held_by_a_stranger_is_storage_unavailable(
    data_dir: Path, storage: SqliteStorage
) -> None:
    writer = storage._file.writer
    assert writer is not None
    await writer.run(lambda connection: connection.execute("PRAGMA busy_timeout = 1"))
    stranger = sqlite3.connect(data_dir / DATABASE_NAME, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="locked"):
        await submit(storage)
    assert (await storage.check())["redis"] is not None
    assert (await storage.check())["mongo"] is None
    assert (await storage.overview()).jobs == 0
    stranger.execute("ROLLBACK")
    stranger.close()
    await submit(storage)
    assert (await storage.check())["redis"] is None


async def test_a_caller_that_gave_up_harms_nobody(storage: SqliteStorage) -> None:
    calls = [asyncio.create_task(submit(storage)) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(one, BaseException) for one in ended[1::2])
    assert (await storage.overview()).jobs >= 25


# -- the file ---------------------------------------------------------------------------------


async def test_only_its_owner_can_read_it(data_dir: Path, storage: SqliteStorage) -> None:
    await submit(storage)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for path in data_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert {DATABASE_NAME, LOCK_NAME} <= {path.name for path in data_dir.iterdir()}


async def test_close_leaves_one_file(data_dir: Path, storage: SqliteStorage) -> None:
    await submit(storage)
    await storage.overview()
    await storage.close()
    assert {path.name for path in data_dir.iterdir()} == {DATABASE_NAME, LOCK_NAME}


async def test_every_commit_is_synced(storage: SqliteStorage) -> None:
    writer = storage._file.writer
    assert writer is not None
    journal = await writer.run(lambda c: c.execute("PRAGMA journal_mode").fetchone()[0])
    synchronous = await writer.run(lambda c: c.execute("PRAGMA synchronous").fetchone()[0])
    assert (journal, synchronous) == ("wal", 2)


async def test_a_second_owner_is_refused(data_dir: Path, storage: SqliteStorage) -> None:
    second = SqliteStorage(data_dir)
    with pytest.raises(StorageInUse, match=re.escape(str(data_dir))):
        await second.open()
    await second.close()
    await submit(storage)
    await storage.close()
    await second.open()
    assert (await second.overview()).jobs == 1
    await second.close()


async def test_opening_forgets_the_leases(data_dir: Path, storage: SqliteStorage) -> None:
    await submit(storage)
    await storage.instances.beat("one", now=NOW, lease_seconds=1000)
    await claimed(storage, owner="one")
    assert await storage.instances.adopt("two", now=NOW, limit=10) == []
    await storage.close()
    again = SqliteStorage(data_dir)
    await again.open()
    assert len(await again.instances.adopt("two", now=NOW, limit=10)) == 1
    await again.close()


async def test_a_file_of_a_newer_version_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    with sqlite3.connect(data_dir / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageUnavailable, match="newer"):
        await SqliteStorage(data_dir).open()


async def test_what_is_not_a_database_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / DATABASE_NAME).write_bytes(b"no database at all" * 1000)
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=f"{DATABASE_NAME}.* is damaged"):
            await SqliteStorage(data_dir).open()


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable, match="DATA_DIR"):
        await SqliteStorage(tmp_path / "file" / "data").open()


async def test_it_must_be_opened_first(data_dir: Path) -> None:
    storage = SqliteStorage(data_dir)
    with pytest.raises(StorageUnavailable):
        await storage.overview()
    with pytest.raises(StorageUnavailable):
        await submit(storage)
    assert None not in (await storage.check()).values()


async def test_an_empty_file_is_refused_and_stays_as_it_is(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / DATABASE_NAME).touch()
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=f'{DATABASE_NAME}" is empty: restore it'):
            await SqliteStorage(data_dir).open()
    assert (data_dir / DATABASE_NAME).stat().st_size == 0


async def test_a_database_of_which_only_the_log_is_left_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / f"{DATABASE_NAME}-wal").write_bytes(b"frames")
    with pytest.raises(StorageUnavailable, match="is missing, but"):
        await SqliteStorage(data_dir).open()
    assert (data_dir / f"{DATABASE_NAME}-wal").read_bytes() == b"frames"


async def test_a_start_that_was_killed_while_it_made_the_file_is_repeated(data_dir: Path) -> None:
    data_dir.mkdir()
    for end in ("", "-wal", "-shm"):
        (data_dir / f"{DATABASE_NAME}.new{end}").write_bytes(b"half")
    storage = SqliteStorage(data_dir)
    await storage.open()
    await submit(storage)
    await storage.close()
    assert {path.name for path in data_dir.iterdir()} == {DATABASE_NAME, LOCK_NAME}


# -- who may read it ----------------------------------------------------------------------------


async def test_what_others_could_read_is_closed_to_them(data_dir: Path) -> None:
    storage = SqliteStorage(data_dir)
    await storage.open()
    await storage.installation()
    await storage.close()
    data_dir.chmod(0o755)
    (data_dir / "mine.sh").touch(0o755)
    for name in (DATABASE_NAME, LOCK_NAME, "installation"):
        (data_dir / name).chmod(0o644)
    with structlog.testing.capture_logs() as lines:
        await storage.open()
    await submit(storage)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir()}
    assert modes.pop("mine.sh") == 0o755
    assert set(modes.values()) == {0o600}
    assert {f"{DATABASE_NAME}-wal", "installation"} <= modes.keys()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    (line,) = lines
    assert line["data_dir"] == str(data_dir)
    assert line["found"] == [
        "data (755)",
        f"{DATABASE_NAME} (644)",
        f"{LOCK_NAME} (644)",
        "installation (644)",
    ]
    await storage.close()
    with structlog.testing.capture_logs() as lines:
        await storage.open()
    assert lines == []
    await storage.close()


async def test_a_directory_of_all_users_stays_theirs(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    storage = SqliteStorage(tmp_path)
    with structlog.testing.capture_logs() as lines:
        await storage.open()
    await storage.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert "shared by all users" in str(lines)


# -- the id of the installation -----------------------------------------------------------------


async def test_the_installation_stays_and_is_there_for_others(
    data_dir: Path, storage: SqliteStorage
) -> None:
    name = await storage.installation()
    assert re.fullmatch(r"[0-9a-f]{32}", name)
    assert await storage.installation() == name
    # As `fastlane prune` asks beside a running server.
    assert await SqliteStorage(data_dir).installation() == name


@pytest.mark.parametrize("content", ["", "\n", "3f2a", "0" * 31, "\0" * 32])
async def test_a_damaged_installation_is_refused(
    data_dir: Path, storage: SqliteStorage, content: str
) -> None:
    (data_dir / "installation").write_text(content)
    with pytest.raises(StorageUnavailable, match=r'installation" is damaged.*restore it'):
        await storage.installation()
    assert (data_dir / "installation").read_text() == content


async def test_a_missing_installation_is_made_only_when_there_are_no_runs(
    data_dir: Path, storage: SqliteStorage
) -> None:
    name = await storage.installation()
    (data_dir / "installation").unlink()
    assert await storage.installation() != name
    await submit(storage)
    (data_dir / "installation").unlink()
    with pytest.raises(StorageUnavailable, match=r'installation" is missing.*restore it'):
        await storage.installation()
    with pytest.raises(StorageUnavailable, match='installation" is missing'):
        await SqliteStorage(data_dir).installation()
    assert not (data_dir / "installation").exists()


# -- a directory that is lost --------------------------------------------------------------------


def _replace(directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    shutil.copytree(directory.with_name("old"), directory)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


LOSSES: Mapping[str, Callable[[Path], object]] = {
    "deleted": shutil.rmtree,
    "moved": lambda directory: directory.rename(directory.with_name("old")),
    "replaced": _replace,
    "emptied": _empty,
    "truncated": lambda directory: os.truncate(directory / DATABASE_NAME, 0),
    "without its log": lambda directory: (directory / f"{DATABASE_NAME}-wal").unlink(),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_nothing_is_stored_in_a_directory_that_is_lost(
    data_dir: Path, storage: SqliteStorage, loss: str
) -> None:
    await submit(storage)
    LOSSES[loss](data_dir)
    left = {path: path.read_bytes() for path in data_dir.glob("*")}
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match="DATA_DIR was deleted, moved"):
                await submit(storage)
            with pytest.raises(StorageUnavailable, match="DATA_DIR was deleted, moved"):
                await storage.overview()
            assert None not in (await storage.check()).values()
    (line,) = lines
    assert "restore a backup" in line["event"]
    if loss != "truncated":
        with pytest.raises(StorageInUse):
            await SqliteStorage(data_dir).open()
        if loss == "moved":
            with pytest.raises(StorageInUse):
                await SqliteStorage(data_dir.with_name("old")).open()
    await storage.close()
    # Not even the end of the server changes what is at the path now.
    assert {path: path.read_bytes() for path in left if path.name != LOCK_NAME} == {
        path: content for path, content in left.items() if path.name != LOCK_NAME
    }


@pytest.mark.parametrize("place_of_first", ["path", "directory", "file"])
async def test_each_of_the_locks_keeps_a_second_server_out(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, place_of_first: str
) -> None:
    """Each where the other two are gone or cannot be had."""
    names = iter(["\0fastlane-test-1", "\0fastlane-test-2"])
    open_locked = place._open_locked

    def only(path: Path, flags: int) -> int:
        if (path == data_dir) == (place_of_first == "directory"):
            return open_locked(path, flags)
        return os.open(os.devnull, os.O_RDONLY)

    if place_of_first != "path":
        monkeypatch.setattr(place, "path_name", lambda directory: next(names))
    monkeypatch.setattr(
        place,
        "_open_locked",
        only if place_of_first != "path" else lambda *_: os.open(os.devnull, os.O_RDONLY),
    )
    first = SqliteStorage(data_dir)
    await first.open()
    with pytest.raises(StorageInUse):
        await SqliteStorage(data_dir).open()
    await first.close()


async def test_a_directory_that_is_moved_back_is_used_again(
    data_dir: Path, storage: SqliteStorage
) -> None:
    await submit(storage)
    data_dir.rename(data_dir.with_name("old"))
    with pytest.raises(StorageUnavailable):
        await submit(storage)
    data_dir.with_name("old").rename(data_dir)
    await submit(storage)
    assert set((await storage.check()).values()) == {None}
    await storage.close()
    again = SqliteStorage(data_dir)
    await again.open()
    assert (await again.overview()).jobs == 2
    await again.close()


async def test_what_was_moved_away_is_whole_after_the_server_ended(
    data_dir: Path, storage: SqliteStorage
) -> None:
    await submit(storage)
    data_dir.rename(data_dir.with_name("old"))
    with pytest.raises(StorageUnavailable):
        await submit(storage)
    await storage.close()
    again = SqliteStorage(data_dir.with_name("old"))
    await again.open()
    assert (await again.overview()).jobs == 1
    await again.close()


async def test_a_stranger_who_takes_the_name_of_the_path_keeps_nobody_out(data_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    name = place.path_name(data_dir)
    code = (
        "import os, socket, sys; os.setuid(65534); "
        "one = socket.socket(socket.AF_UNIX); one.bind(sys.argv[1].replace('@', chr(0))); "
        "one.listen(); print('bound', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, name.replace("\0", "@")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"bound\n"
        storage = SqliteStorage(data_dir)
        await storage.open()
        with pytest.raises(StorageInUse):
            await SqliteStorage(data_dir).open()
        await storage.close()
        assert stranger.stdin is not None
        stranger.stdin.close()


async def test_many_refused_servers_do_not_wear_the_name_out(
    data_dir: Path, storage: SqliteStorage
) -> None:
    shutil.rmtree(data_dir)
    for _ in range(300):
        with pytest.raises(StorageInUse):
            await SqliteStorage(data_dir).open()


# -- records that cannot be read --------------------------------------------------------------


async def test_an_unreadable_record_ends_and_the_rest_goes_on(
    data_dir: Path, storage: SqliteStorage
) -> None:
    broken = [await submit(storage) for _ in range(4)]
    waiting = await submit(storage, waits_for=broken[0].id)
    good = await submit(storage)
    stranger = sqlite3.connect(data_dir / DATABASE_NAME, isolation_level=None)
    for execution, text in zip(broken, ("{", "[]", '{"image": 1}', "null"), strict=True):
        stranger.execute("UPDATE executions SET definition = ? WHERE id = ?", (text, execution.id))
    stranger.execute("UPDATE jobs SET definition = '{' WHERE id = ?", (broken[0].job_id,))
    stranger.close()

    assert (await claimed(storage)).id == good.id
    assert (await claimed(storage)).id == waiting.id
    assert await claim(storage) is None
    for execution in broken:
        ended = await storage.executions.get(execution.id)
        assert (ended.status, ended.reason) == (Status.FAILED, Reason.LOST)
        assert ended.error is not None
        assert ended.finished_at == NOW
    assert (await storage.jobs.of_task("task", PageRequest())).total == 6
    assert (await storage.overview()).queued == 0


# -- the plans of the queries -----------------------------------------------------------------

# What may be scanned: the tables of one row, of the hosts and of the channels, the words given to a
# search with the tasks found for them, the names that a recursive query found by one seek each, and
# the index of what is active, which the farms' limits bound.
BOUNDED_SCANS = re.compile(
    r"SCAN (counters|hosts|pending|farms|receivers|json_each VIRTUAL TABLE.*|\(subquery-\d+\)"
    r"|executions USING (COVERING )?INDEX executions_active)"
)
MODULES = (changes, executions, hosts, instances, jobs, logs, outbox, storage_module, tasks)
STATEMENTS = {"SELECT", "UPDATE", "DELETE", "INSERT", "WITH"}
QUERIES = {
    f"{module.__name__.rpartition('.')[2]}.{name}{number or ''}": query
    for module in MODULES
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str | tuple)
    for number, query in enumerate([value] if isinstance(value, str) else value)
    if isinstance(query, str) and query.split()[:1] and query.split()[0] in STATEMENTS
}


OF_LISTS = re.compile(r"executions_(created|ended|ended_of_task|origin|host)\b")


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_scans_a_table(tmp_path: Path, name: str) -> None:
    connection = connect_writer(tmp_path / "x.db")
    query = QUERIES[name]
    numbered = [int(number) for number in re.findall(r"\?(\d+)", query)]
    parameters: dict[str, str] | tuple[str, ...] = dict.fromkeys(re.findall(r":(\w+)", query), "1")
    if not parameters:
        parameters = ("1",) * max(numbered, default=query.count("?"))
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
    connection.close()
    # The indexes of lists hold all executions of a farm or a host, so no other query may go there.
    of_lists = [row[3] for row in plan if OF_LISTS.search(row[3])]
    assert of_lists == [] or "INDEXED BY" in query
    scans = [row[3] for row in plan if row[3].startswith("SCAN")]
    assert [scan for scan in scans if not BOUNDED_SCANS.fullmatch(scan)] == []


def test_the_hot_queries_need_no_sorting(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "x.db")
    for query in (
        executions.FIRST_QUEUED,
        executions.FIRST_OF_NEXT_TASK,
        executions.AHEAD_IN_TASK,
        executions.AHEAD_IN_FARM,
        executions.ACTIVE_COUNTS,
        executions.DUE_EXECUTIONS,
        executions.EXPIRED_EXECUTIONS,
        changes.LAST_EXECUTION,
        jobs.DUE_JOBS,
        tasks.TASKS_PAGE,
        jobs.JOBS_PAGE,
        executions.EXECUTIONS_PAGE,
        logs.CHUNKS_AFTER,
        logs.CHUNKS_BACKWARDS,
    ):
        parameters = ("1",) * query.count("?")
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
        assert not [row[3] for row in plan if "TEMP B-TREE" in row[3]], query
    connection.close()


# -- kill -9 ----------------------------------------------------------------------------------

CHILD = """
import asyncio, pathlib, sys
from fastlane.storage.sqlite import SqliteStorage
from tests.contracts.test_storage import submit

async def submit_for_ever(storage):
    while True:
        execution = await submit(storage)
        print(execution.id, flush=True)

async def main():
    storage = SqliteStorage(pathlib.Path(sys.argv[1]))
    await storage.open()
    await asyncio.gather(*[submit_for_ever(storage) for _ in range(20)])

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 50, 1000])
async def test_what_was_answered_survives_kill_9(data_dir: Path, lines: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    with child.stdout as output:
        answered = [output.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        answered += output.readlines()
    child.wait(CHILD_TIMEOUT)

    storage = SqliteStorage(data_dir)
    await storage.open()
    try:
        ids = [line.strip() for line in answered if line.endswith("\n")]
        assert len(ids) >= lines
        for execution_id in ids:
            assert (await storage.executions.get(execution_id)).status is Status.ENQUEUED
        overview = await storage.overview()
        assert overview.queued == overview.jobs >= len(ids)
    finally:
        await storage.close()
