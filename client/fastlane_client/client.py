"""The clients: every operation of the server, written once for both styles."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

from fastlane_client.address import Place, segment
from fastlane_client.core import (
    CALL_SECONDS,
    PATIENCE_SECONDS,
    WAIT_SECONDS,
    Core,
    Item,
    Items,
    Op,
    Reply,
    mapped,
    new_key,
)
from fastlane_client.decoding import decode
from fastlane_client.drivers import AsyncDriver, SyncDriver
from fastlane_client.errors import BadAddress, UnexpectedAnswer
from fastlane_client.payload import Seconds, Time, payload_of
from fastlane_client.records import (
    BulkResult,
    Event,
    Execution,
    ExecutionItem,
    FarmHosts,
    Health,
    Job,
    JobItem,
    Notification,
    Plan,
    ServerStatus,
    Stats,
    Task,
    TaskJob,
)
from fastlane_client.runs import AsyncRun, Run, RunId, get_execution, get_job, remove
from fastlane_client.styles import Async, Styled, Sync, call, items, starts

When = datetime | float | str
"""A point in time: a datetime, unix seconds, RFC 3339, or a duration back from now (``"24h"``)."""
Several = str | Sequence[str]
"""One value, or several."""


def _task(name: str) -> str:
    return f"/tasks/{segment(name)}"


class ClientMethods(Styled):
    """All operations; a :class:`Client` blocks, an :class:`AsyncClient` is awaited."""

    # -- submit --------------------------------------------------------------------------------

    @starts
    def submit(
        self,
        task: str,
        *,
        image: str | None = None,
        command: str | Sequence[str] | None = None,
        envs: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        start_at: Time | None = None,
        start_in: Seconds | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        overlap: str | None = None,
        max_waiting: int | None = None,
        retries: int | None = None,
        backoff: Mapping[str, float] | None = None,
        timeout: Seconds | None = None,
        expiration: Time | Seconds | None = None,
        notify: Mapping[str, Any] | None = None,
        webhooks: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        pull_policy: str | None = None,
        rerun_when_lost: bool | None = None,
        additional_dns_entries: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        job: str | None = None,
        from_job: str | None = None,
        idempotency_key: str | None = None,
    ) -> Op[RunId]:
        """Submit a job. It is stored when this returns, and stored once: a lost answer is asked for
        again under the same ``Idempotency-Key``.

        :param command: a string is split as a shell splits words; no shell runs it.
        :param backoff: ``minMs``, ``factor`` and ``maxMs``: the delays before retries.
        :param extra: further keys of the payload, as the API names them.
        :param job: create the job with this id or name, or replace its definition. It is not asked
            for again when the answer is lost, as each PUT enqueues.
        :param from_job: of a new job: a job of the same task whose stored secrets ``***`` means.
        :param idempotency_key: your own, such as the id of what the job is for.
        """
        payload = payload_of(
            image,
            command,
            envs=envs,
            metadata=metadata,
            start_at=start_at,
            start_in=start_in,
            cron=cron,
            timezone=timezone,
            overlap=overlap,
            max_waiting=max_waiting,
            retries=retries,
            backoff=backoff,
            timeout=timeout,
            expiration=expiration,
            notify=notify,
            webhooks=webhooks,
            resources=resources,
            pull_policy=pull_policy,
            rerun_when_lost=rerun_when_lost,
            additional_dns_entries=additional_dns_entries,
            extra=extra,
        )
        return self._submit(task, payload, job, from_job, idempotency_key)

    @starts
    def submit_payload(
        self,
        task: str,
        payload: Mapping[str, Any],
        *,
        job: str | None = None,
        from_job: str | None = None,
        idempotency_key: str | None = None,
    ) -> Op[RunId]:
        """As :meth:`submit`, with the payload as the API has it."""
        return self._submit(task, payload, job, from_job, idempotency_key)

    def _submit(
        self,
        task: str,
        payload: Mapping[str, Any],
        job: str | None,
        from_job: str | None,
        key: str | None,
    ) -> Op[RunId]:
        core = self._core
        if job is not None:
            path = f"{_task(task)}/jobs/{segment(job)}/"
            if from_job is not None:
                raise ValueError("from_job is for new jobs; a replacement keeps what *** means.")
            request = core.request("PUT", path, None, payload)
        else:
            headers = {"Idempotency-Key": key or new_key()}
            query = {"from": from_job}
            request = core.request(
                "POST", f"{_task(task)}/", query, payload, repeatable=True, headers=headers
            )
        return RunId.of((yield from core.json(request)))

    @call
    def plan(self, task: str, payload: Mapping[str, Any]) -> Op[Plan]:
        """What :meth:`submit_payload` would create, and the next five runs. Nothing is stored."""
        query = {"dryRun": True}
        request = self._core.request("POST", f"{_task(task)}/", query, payload, repeatable=True)
        return decode(Plan, (yield from self._core.json(request)))

    # -- tasks ---------------------------------------------------------------------------------

    @items
    def tasks(self, *, per_page: int = 100) -> Items[Task]:
        """All tasks."""
        found = self._core.pages("/tasks/", {"perPage": per_page})
        return mapped(found, lambda one: decode(Task, one))

    @items
    def search_tasks(self, query: str, *, per_page: int = 100) -> Items[Task]:
        """The tasks with one of the words of *query*, best match first."""
        found = self._core.pages("/search/", {"query": query, "perPage": per_page})
        return mapped(found, lambda one: decode(Task, one))

    @call
    def task(self, task: str) -> Op[Task]:
        """One task."""
        return decode(Task, (yield from self._get(f"{_task(task)}/")))

    @items
    def task_jobs(self, task: str, *, per_page: int = 100) -> Items[TaskJob]:
        """The jobs of a task, newest first."""
        found = self._core.pages(f"{_task(task)}/", {"perPage": per_page}, "jobs")
        return mapped(found, lambda one: decode(TaskJob, one))

    @call
    def delete_task(self, task: str, *, force: bool = False) -> Op[None]:
        """Delete a task with its jobs and executions.

        :param force: stop what runs; otherwise that is a :class:`Conflict`.
        """
        return remove(self._core, f"{_task(task)}/", force)

    # -- jobs ----------------------------------------------------------------------------------

    @items
    def jobs(
        self,
        *,
        task: str | None = None,
        state: Several | None = None,
        kind: Literal["once", "cron"] | None = None,
        q: str | None = None,
        per_page: int = 100,
    ) -> Items[JobItem]:
        """Jobs across tasks.

        :param task: a task, or its beginning followed by ``*``.
        :param q: words of the task's name, or the beginning of a job's id.
        """
        query = {"task": task, "state": state, "kind": kind, "q": q, "perPage": per_page}
        return mapped(self._core.pages("/jobs/", query), lambda one: decode(JobItem, one))

    @call
    def job(self, task: str, job: str) -> Op[Job]:
        """One job, with the first page of its executions. *job* is an id or a name."""
        return get_job(self._core, RunId(task, job))

    @items
    def job_executions(self, task: str, job: str, *, per_page: int = 20) -> Items[Execution]:
        """All executions of a job, newest first."""
        path = f"{RunId(task, job).job_path}/"
        page: Mapping[str, Any] = {"nextUrl": path}
        number = 0
        while page.get("nextUrl"):
            number += 1
            query = {"page": number, "perPage": per_page}
            page = yield from self._core.json(self._core.request("GET", path, query))
            for one in page["job"]["executions"]:
                yield Item(decode(Execution, one))

    # -- executions ----------------------------------------------------------------------------

    @items
    def executions(
        self,
        *,
        task: str | None = None,
        job: str | None = None,
        status: Several | None = None,
        reason: Several | None = None,
        trigger: Several | None = None,
        farm: str | None = None,
        host: str | None = None,
        since: When | None = None,
        until: When | None = None,
        q: str | None = None,
        per_page: int = 100,
    ) -> Items[ExecutionItem]:
        """Executions across tasks, newest first.

        :param task: a task, or its beginning followed by ``*``.
        :param job: a job's id, or with *task* its name.
        :param status: also ``waiting``, ``active`` and ``final``.
        :param q: words of the task's name, or the beginning of a job's or an execution's id.
        """
        query = {
            "task": task,
            "job": job,
            "status": status,
            "reason": reason,
            "trigger": trigger,
            "farm": farm,
            "host": host,
            "since": since,
            "until": until,
            "q": q,
            "perPage": per_page,
        }
        found = self._core.pages("/executions/", query)
        return mapped(found, lambda one: decode(ExecutionItem, one))

    @call
    def execution(self, task: str, job: str, execution: str) -> Op[Execution]:
        """One execution."""
        return get_execution(self._core, RunId(task, job, execution).path)

    @call
    def stop_all(
        self, which: Mapping[str, Any], *, dry_run: bool, expected: int | None = None
    ) -> Op[BulkResult]:
        """Stop executions.

        :param which: ``{"ids": [...]}``, or the filters of :meth:`executions`.
        :param dry_run: only say what would be stopped.
        :param expected: how many must match; another number is a :class:`Conflict`.
        """
        return self._all("stop", dry_run, expected, which)

    @call
    def rerun_all(
        self, which: Mapping[str, Any], *, dry_run: bool, expected: int | None = None
    ) -> Op[BulkResult]:
        """As :meth:`stop_all`: run them once more, each with its definition."""
        return self._all("rerun", dry_run, expected, which)

    def _all(
        self, verb: str, dry_run: bool, expected: int | None, which: Mapping[str, Any]
    ) -> Op[BulkResult]:
        body = {**which, "dryRun": dry_run}
        if expected is not None:
            body["expected"] = expected
        request = self._core.request(
            "POST", f"/executions/{verb}/", None, body, repeatable=dry_run or verb == "stop"
        )
        return decode(BulkResult, (yield from self._core.json(request)))

    # -- events --------------------------------------------------------------------------------

    @items
    def events(
        self,
        *,
        after: str | None = None,
        task: Several | None = None,
        job: str | None = None,
        execution: str | None = None,
        type: Several | None = None,
        follow: bool = True,
    ) -> Items[Event]:
        """What happens, from now on or from after the event with the cursor *after*.

        A lost connection is resumed after the last event, so that none is missed. An event with the
        type ``gap`` says that older ones are not kept any more.

        :param type: such as ``execution.failed`` or ``execution.*``.
        :param follow: continue for ever; otherwise what is stored after *after*.
        """
        core = self._core
        filters = {"task": task, "job": job, "execution": execution, "type": type}
        while True:
            wait = WAIT_SECONDS if follow and after is not None else 0
            query = {**filters, "after": after, "wait": wait or None}
            page = yield from core.json(core.request("GET", "/events/", query, wait=wait))
            if not isinstance(page, dict) or not isinstance(page.get("cursor"), str):
                raise UnexpectedAnswer(f"{core.address.base} sent no events.")
            for one in page["items"]:
                yield Item(decode(Event, one))
            after = page["cursor"]
            if not follow and not page.get("hasMore"):
                return

    @call
    def events_cursor(self) -> Op[str]:
        """Where the events end now: for :meth:`events` that must not miss what comes next."""
        answer = yield from self._get("/events/")
        cursor: str = answer["cursor"]
        return cursor

    # -- the server ----------------------------------------------------------------------------

    @call
    def status(self) -> Op[ServerStatus]:
        """What the server does, and the state of its hosts."""
        return decode(ServerStatus, (yield from self._get("/status/")))

    @call
    def health(self) -> Op[Health]:
        """Whether the storage is available.

        :raises Unavailable: it is not.
        """
        return decode(Health, (yield from self._get("/healthcheck/")))

    @call
    def hosts(self) -> Op[Sequence[FarmHosts]]:
        """The farms with their slots and hosts, and what runs on each."""
        answer = yield from self._get("/hosts/")
        return tuple(decode(FarmHosts, one) for one in answer["farms"])

    @call
    def drained(self) -> Op[Sequence[str]]:
        """The hosts that get no new executions."""
        answer = yield from self._get("/docker-executor/blacklist/")
        return tuple(answer["hosts"])

    @call
    def drain(self, host: str) -> Op[None]:
        """Give the host, ``name:port``, no new executions."""
        yield from self._core.send(
            self._core.request(
                "POST", "/docker-executor/blacklist/", None, {"host": host}, repeatable=True
            )
        )

    @call
    def undrain(self, host: str) -> Op[None]:
        """Give the host new executions again."""
        yield from self._core.send(
            self._core.request(
                "DELETE", "/docker-executor/blacklist/", None, {"host": host}, repeatable=True
            )
        )

    @call
    def stats(
        self, *, since: When | None = None, step: str | None = None, task: str | None = None
    ) -> Op[Stats]:
        """How many executions ended how, and how long they took, by step of time.

        :param step: ``1m``, ``5m``, ``1h`` or ``1d``.
        """
        query = {"since": since, "step": step, "task": task}
        return decode(Stats, (yield from self._get("/stats/", query)))

    @items
    def notifications(
        self, state: str | None = None, *, per_page: int = 100
    ) -> Items[Notification]:
        """The notifications that are ``failed`` or ``pending``, newest first."""
        found = self._core.pages("/notifications/", {"state": state, "perPage": per_page})
        return mapped(found, lambda one: decode(Notification, one))

    @call
    def requeue(self, notification: str) -> Op[Notification]:
        """Try a failed notification again, with all its retries."""
        path = f"/notifications/{segment(notification)}/requeue/"
        return decode(Notification, (yield from self._core.json(self._core.request("POST", path))))

    @call
    def openapi(self) -> Op[Mapping[str, Any]]:
        """The OpenAPI document of the server."""
        return self._get("/openapi.json")

    @call
    def metrics(self) -> Op[str]:
        """The metrics as Prometheus text."""
        request = self._core.request("GET", "/metrics", accept="text/plain")
        reply = yield from self._core.send(request)
        return reply.body.decode()

    @call
    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Op[Reply]:
        """Any request with the credentials of this client.

        :param path: below the URL of the server, percent-encoded, with or without a query.
        :raises Refused: the server answered with an error status.
        """
        if not path.startswith("/"):
            raise BadAddress(f'The path "{path[:200]}" does not begin with a slash.')
        request = self._core.request(method.upper(), path, query, body, headers=headers)
        return self._core.send(request)

    def _get(self, path: str, query: Mapping[str, object] | None = None) -> Op[Any]:
        return self._core.json(self._core.request("GET", path, query))

    # -- without a request ---------------------------------------------------------------------

    @property
    def server(self) -> str:
        """The URL of the server, without credentials."""
        return self._core.address.base

    def _run_id(self, task: str, job: str | None, execution: str | None) -> RunId:
        """*task* is the name of a task, or with nothing else a URL."""
        if job is None:
            place = Place.parse(task)
            if place.base != self.server:
                raise BadAddress(
                    f"{place.base} is another server than {self.server}, whose credentials it must "
                    "not get; make a client of that server."
                )
            task, job, execution = place.task_id, place.job_id, place.execution_id
            if job is None:
                raise BadAddress("That is the URL of a task; give that of a job or an execution.")
        # The retries of a job belong to it, but not to one of its executions.
        return RunId(task, job, execution, retries=execution is None)


class Client(ClientMethods, Sync):
    """A client that blocks::

        with Client("http://localhost:10000") as client:
            run = client.submit("reports", image="ubuntu:22.04", command="make report")

    It may be used by several threads.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = CALL_SECONDS,
        patience: float = PATIENCE_SECONDS,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is sent yet.

        :param url: of the server; ``FASTLANE_URL`` or http://localhost:10000 by default. A user and
            a password in it are for Basic auth.
        :param token: ``FASTLANE_TOKEN`` by default.
        :param timeout: bounds the silence of the server during one request, in seconds.
        :param patience: for how long a server that has answered before is called again while it is
            unreachable, in seconds. 0: it is not called again.
        :param verify: the certificates that are trusted; by default those of the system, or of
            SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE.
        :raises BadAddress: *url* is not an http URL.
        """
        core = Core(url, token=token, timeout=timeout, patience=patience, headers=headers)
        self._driver = SyncDriver(core, verify)

    def run(self, task: str, job: str | None = None, execution: str | None = None) -> Run:
        """A job, or one of its executions, by its ids or by its URL alone. Nothing is sent.

        :raises BadAddress: the URL is none of this server.
        """
        return Run(self._driver, self._run_id(task, job, execution))

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(ClientMethods, Async):
    """A client for asyncio::

    async with AsyncClient("http://localhost:10000") as client:
        run = await client.submit("reports", image="ubuntu:22.04", command="make report")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = CALL_SECONDS,
        patience: float = PATIENCE_SECONDS,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        """See :class:`Client`."""
        core = Core(url, token=token, timeout=timeout, patience=patience, headers=headers)
        self._driver = AsyncDriver(core, verify)

    def run(self, task: str, job: str | None = None, execution: str | None = None) -> AsyncRun:
        """See :meth:`Client.run`."""
        return AsyncRun(self._driver, self._run_id(task, job, execution))

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
