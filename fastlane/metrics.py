"""Metrics for Prometheus: what this instance did, and how things are when it asks.

Counters and histograms count what this instance did: they follow its own events, requests, calls of
the storage and deliveries. Gauges are read from the storage at scrape time. Labels are bounded: no
label holds the id of a job or an execution, and tasks share :class:`TaskLabels`.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from fastlane.errors import StorageUnavailable
from fastlane.events import Event, ExecutionChanged, JobChanged, LogGrown
from fastlane.hosts import Circuit, Hosts
from fastlane.model import ACTIVE, Clock, DeliveryState, Farm, Status, Trigger
from fastlane.storage.base import ExecutionFilter, PageRequest, Storage

OTHER = "other"
"""The label of tasks that have none of their own."""
ALL_CHANNELS = "all"
# Bounds how old a change may be that is counted: what is published again is not.
NEW_SECONDS = 60.0
# Bounds the changes that are remembered as counted.
COUNTED = 10_000
# How often the lag of the event loop is measured, in seconds.
LAG_SECONDS = 1.0
# Bound the tasks among which those of METRICS_TASKS are looked for.
TASKS_AT_START, TASKS_A_PAGE = 10_000, 1_000
# How often they are looked for, in seconds: what another instance did counts, too.
FIND_SECONDS = 3600.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})

_JOB_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_LATE_SECONDS = (0.01, 0.1, 0.5, 1, 5, 60, 600)
_CALL_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60)


class TaskLabels:
    """Which tasks have a label of their own: so many that are named, and so many that came first.

    The others share :data:`OTHER`.
    """

    def __init__(self, patterns: Sequence[str], limit: int) -> None:
        """:param patterns: globs of tasks that get theirs whichever came first.
        :param limit: of each of the two kinds.
        """
        self._patterns = patterns
        self._limit = limit
        self._named: set[str] = set()
        self._first: set[str] = set()

    def is_named(self, task_id: str) -> bool:
        """Whether a pattern names the task."""
        return any(fnmatchcase(task_id, pattern) for pattern in self._patterns)

    def of(self, task_id: str) -> str:
        """The label of the task."""
        if task_id in self._named or task_id in self._first:
            return task_id
        tasks = self._named if self.is_named(task_id) else self._first
        if len(tasks) >= self._limit:
            return OTHER
        tasks.add(task_id)
        return task_id


class Once:
    """Tells a change from the same change that is published again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[tuple[str, Status], None] = OrderedDict()

    def is_new(self, event: ExecutionChanged, at: float) -> bool:
        """Whether the change at that time was not asked for yet."""
        key = (event.execution_id, event.status)
        if key in self._seen or at < self._clock() - NEW_SECONDS:
            return False
        self._seen[key] = None
        if len(self._seen) > COUNTED:
            self._seen.popitem(last=False)
        return True


class Metrics:
    """Everything that is measured of one instance."""

    def __init__(
        self,
        *,
        storage: Storage,
        hosts: Hosts,
        farms: Sequence[Farm],
        clock: Clock,
        version: str,
        tasks: TaskLabels,
        viewers: Callable[[], int],
    ) -> None:
        """:param viewers: how many follow a log now."""
        self._storage, self._hosts, self._farms = storage, hosts, farms
        self._clock, self._tasks = clock, tasks
        self._once = Once(clock)
        self._scraping = asyncio.Lock()
        self._due: float | None = None
        self._last_success: dict[str, float] = {}
        self._make_counters()
        self._make_gauges(version, viewers)
        # As labels() takes longer than the rest; there are only so many.
        self._call = cache(self._calls.labels)
        self._request = cache(self._request_seconds.labels)
        storage.observe(self.operation)

    def _make_counters(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"fastlane_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(
                f"fastlane_{name}_seconds", help, labels, buckets=buckets, registry=self.registry
            )

        self._executions = counter(
            "executions_total", "Executions that ended.", "task", "status", "reason"
        )
        self._duration = histogram(
            "execution_duration", "From the start of a run to its end.", _JOB_SECONDS
        )
        self._wait = histogram(
            "execution_wait",
            "From joining the queue to the start.",
            _JOB_SECONDS,
        )
        self._lateness = histogram(
            "schedule_lateness", "From a tick to the execution made for it.", _LATE_SECONDS
        )
        self._skipped = counter(
            "ticks_skipped_total", "Ticks without an execution of their own.", "task", "reason"
        )
        self._attempts = counter(
            "notification_attempts_total", "Attempts to deliver.", "channel", "result"
        )
        self._log_bytes = counter("log_bytes_total", "Bytes of logs that were stored.")
        self._requests = counter(
            "http_requests_total", "Requests that were answered.", "route", "method", "code"
        )
        self._request_seconds = histogram(
            "http_request_duration",
            "From the head of a request to the end of its answer.",
            _REQUEST_SECONDS,
            "route",
        )
        self._lag = histogram(
            "event_loop_lag", "How late the event loop is for what is due.", _CALL_SECONDS
        )
        self._calls = histogram(
            "storage_operation_duration", "Calls of the storage.", _CALL_SECONDS, "operation"
        )
        self._errors = counter("storage_errors_total", "Calls that found the storage unreachable.")

    def _make_gauges(self, version: str, viewers: Callable[[], int]) -> None:
        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"fastlane_{name}", help, labels, registry=self.registry)

        self._current = gauge("executions_current", "Executions that are not final.", "status")
        self._queue = gauge("queue_length", "Executions that wait for a slot.", "farm")
        self._oldest = gauge(
            "oldest_waiting_seconds", "How long the first of the queue has waited.", "farm"
        )
        self._slots = gauge("slots", "Slots, used and free.", "farm", "state")
        self._up = gauge("host_up", "1, or 0 while the circuit of the host is open.", "host")
        self._deliveries = gauge(
            "notifications", "Notifications that are pending or failed.", "channel", "state"
        )
        self._success = gauge(
            "task_last_success_timestamp_seconds", "When an execution was done last.", "task"
        )
        gauge("log_viewers", "Clients that follow a log.").set_function(viewers)
        gauge("build_info", "1; the version is the label.", "version").labels(version).set(1)

    # -- what this instance does --------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Count what this instance has published."""
        match event:
            case ExecutionChanged(final=True):
                self._ended(event)
            case ExecutionChanged(status=Status.RUNNING):
                began_at, queued_at = event.started_at, event.queued_at or event.created_at
                if began_at and queued_at and self._once.is_new(event, began_at):
                    self._wait.observe(max(began_at - queued_at, 0))
            case ExecutionChanged(status=Status.ENQUEUED, trigger=Trigger.SCHEDULE | Trigger.CRON):
                made_at, tick = event.created_at, event.tick
                if made_at and tick and self._once.is_new(event, made_at):
                    self._lateness.observe(max(made_at - tick, 0))
            case JobChanged(skipped=str(reason)):
                self._skipped.labels(self._tasks.of(event.task_id), str(reason)).inc()
            case LogGrown():
                self._log_bytes.inc(event.size)

    def _ended(self, event: ExecutionChanged) -> None:
        ended_at = event.finished_at or 0.0
        if not self._once.is_new(event, ended_at):
            return
        task = self._tasks.of(event.task_id)
        self._executions.labels(task, str(event.status), str(event.reason or "")).inc()
        if event.started_at is not None:
            self._duration.observe(max(ended_at - event.started_at, 0))
        if event.status is Status.DONE:
            self._succeeded(task, ended_at)

    def _succeeded(self, task: str, at: float) -> None:
        if task != OTHER and at > self._last_success.get(task, 0):
            self._last_success[task] = at
            self._success.labels(task).set(at)

    def operation(self, operation: str, seconds: float, failed: bool) -> None:
        """Count a call of the storage."""
        self._call(operation).observe(seconds)
        if failed:
            self._errors.inc()

    def request(self, route: str, method: str | None, code: int, seconds: float) -> None:
        """Count a request; *route* is a path of the table."""
        known = method if method in METHODS else OTHER
        self._requests.labels(route, known, str(code)).inc()
        self._request(route).observe(seconds)

    def attempt(self, channel: str, delivered: bool) -> None:
        """Count an attempt to deliver."""
        self._attempts.labels(channel, "delivered" if delivered else "failed").inc()

    async def measure_lag(self) -> float:
        """One measurement; in how many seconds the next one is due."""
        now = asyncio.get_running_loop().time()
        if self._due is not None:
            self._lag.observe(max(now - self._due, 0))
        self._due = now + LAG_SECONDS
        return LAG_SECONDS

    # -- when Prometheus asks -----------------------------------------------------------------

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything as text, and its media type: OpenMetrics where *accept* asks for it."""
        encode, media_type = choose_encoder(accept)
        async with self._scraping:
            await self._read()
            return await asyncio.to_thread(encode, self.registry), media_type

    async def _read(self) -> None:
        farms = [farm.name for farm in self._farms]
        for gauge in (self._current, self._queue, self._oldest, self._slots, self._deliveries):
            gauge.clear()
        for farm in self._farms:
            for host in farm.hosts:
                self._up.labels(host).set(self._hosts.circuit(host) is not Circuit.OPEN)
        try:
            overview, active, queues = await asyncio.gather(
                self._storage.overview(),
                self._storage.executions.active_runs(),
                self._storage.executions.queues(farms),
            )
        except StorageUnavailable:
            # What is not known is not there; the counters are.
            return
        self._current.labels(str(Status.ENQUEUED)).set(overview.queued + overview.delayed)
        by_status = Count(one.status for one in active)
        for status in ACTIVE:
            self._current.labels(str(status)).set(by_status[status])
        running = Count(one.farm for one in active)
        now = self._clock()
        for farm in self._farms:
            queue = queues[farm.name]
            self._queue.labels(farm.name).set(queue.length)
            waits = 0.0 if queue.oldest_at is None else max(now - queue.oldest_at, 0.0)
            self._oldest.labels(farm.name).set(waits)
            used = running[farm.name]
            self._slots.labels(farm.name, "used").set(used)
            self._slots.labels(farm.name, "free").set(max(farm.max_running - used, 0))
        self._set_deliveries(overview.pending, overview.undelivered)

    def _set_deliveries(self, pending: Mapping[str, int], failed: int) -> None:
        for channel, count in pending.items():
            self._deliveries.labels(channel, str(DeliveryState.PENDING)).set(count)
        self._deliveries.labels(ALL_CHANNELS, str(DeliveryState.FAILED)).set(failed)

    async def find_last_successes(self) -> float:
        """Set when each of the named tasks was done last, which a new process does not know.

        :return: in how many seconds to look again.
        """
        cursor: str | None = None
        for _ in range(TASKS_AT_START // TASKS_A_PAGE):
            page = await self._storage.tasks.page(PageRequest(size=TASKS_A_PAGE, after=cursor))
            for task in page.items:
                if self._tasks.is_named(task.id) and self._tasks.of(task.id) != OTHER:
                    await self._find_last_success(task.id)
            cursor = page.next_cursor
            if cursor is None:
                break
        return FIND_SECONDS

    async def _find_last_success(self, task_id: str) -> None:
        wanted = ExecutionFilter(task_id=task_id, statuses=frozenset({Status.DONE}))
        found = await self._storage.lists.executions(wanted, size=1)
        for one in found.items:
            self._succeeded(task_id, one.finished_at or 0.0)
