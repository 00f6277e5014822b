"""Traces of executions, sent by OTLP over HTTP.

The spans of an execution are made when it has ended, with the times of its record; their ids follow
from its id (:mod:`fastlane.trace_context`). Names and attributes are those of the semantic
conventions for CI/CD (https://opentelemetry.io/docs/specs/semconv/cicd/cicd-spans/): an execution
is a pipeline run, and waiting, the pull and the run itself are its tasks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import quote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from fastlane.events import Event, ExecutionChanged
from fastlane.metrics import Once
from fastlane.model import Clock, Reason, Status
from fastlane.trace_context import parent_of, span_id_of, trace_id_of

ROOT = "execution"
# Bounds the executions whose claim is remembered until they end.
CLAIMED = 10_000
# Bounds how long the server waits for the collector, at each attempt and at the shutdown.
EXPORT_SECONDS = 5
_NOT_THE_JOBS = frozenset({Reason.LOST, Reason.PULL_FAILED, Reason.START_FAILED})
Attributes = Mapping[str, str | int]


class _Ids(IdGenerator):
    """Gives the ids that were decided on."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Tracing:
    """Sends the spans of those executions that this instance has ended."""

    def __init__(self, endpoint: str, *, version: str, public_url: str, clock: Clock) -> None:
        """:param endpoint: of the collector, as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        :param public_url: where people see executions; may be empty.
        """
        self._public_url = public_url
        self._clock = clock
        self._once = Once(clock)
        self._claimed: OrderedDict[str, float] = OrderedDict()
        self._ids = _Ids()
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        named = {"service.name": "fastlane", "service.version": version}
        resource = Resource.create(named).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fastlane", version)

    def close(self) -> None:
        """Send what is left; blocks for some seconds where the collector does not answer."""
        self._provider.force_flush(EXPORT_SECONDS * 1000)
        self._provider.shutdown()

    def event(self, event: Event) -> None:
        """Hear what this instance has published."""
        if not isinstance(event, ExecutionChanged):
            return
        if event.status is Status.PULLING:
            self._claimed.setdefault(event.execution_id, self._clock())
            if len(self._claimed) > CLAIMED:
                self._claimed.popitem(last=False)
        elif event.final and self._once.is_new(event, event.finished_at or 0.0):
            self._send(event, self._claimed.pop(event.execution_id, None))

    def _send(self, event: ExecutionChanged, claimed_at: float | None) -> None:
        """:param claimed_at: when it left the queue; None where another instance claimed it."""
        made_at, ended_at = event.created_at or 0.0, event.finished_at or 0.0
        self._ids.trace_id = trace_id_of(event.execution_id, event.traceparent)
        given, parent = parent_of(event.traceparent), None
        if given is not None:
            flags = TraceFlags(given.flags & 1)
            parent = NonRecordingSpan(SpanContext(given.trace_id, given.span_id, True, flags))
        root = self._start(event, ROOT, made_at, parent, _of_pipeline(event, self._url(event)))
        began_at = event.started_at
        left_at = claimed_at or began_at or ended_at
        tasks = [("wait", made_at, left_at)]
        if claimed_at is not None:
            tasks.append(("pull", claimed_at, began_at or ended_at))
        if began_at is not None:
            tasks.append(("run", began_at, ended_at))
        for name, start, end in tasks:
            span = self._start(event, name, start, root, _of_task(event, name))
            self._end(span, event if name == tasks[-1][0] else None, end)
        self._end(root, event, ended_at)

    def _start(
        self,
        event: ExecutionChanged,
        name: str,
        at: float,
        parent: Span | None,
        attributes: Attributes,
    ) -> Span:
        self._ids.span_id = span_id_of(event.execution_id, name)
        links = []
        if name == ROOT and event.retry_of is not None:
            trace_id = trace_id_of(event.retry_of, event.traceparent)
            before = SpanContext(trace_id, span_id_of(event.retry_of, ROOT), True)
            links.append(Link(before))
        return self._tracer.start_span(
            f"RUN {event.task_id}" if name == ROOT else name,
            None if parent is None else set_span_in_context(parent),
            SpanKind.SERVER if name == ROOT else SpanKind.INTERNAL,
            attributes,
            links,
            _nanoseconds(at),
        )

    def _end(self, span: Span, event: ExecutionChanged | None, at: float) -> None:
        """:param event: of the end of the execution, where the span ends as that does."""
        if event is not None and _result(event) not in {"success", "cancellation", "skip"}:
            span.set_attribute("error.type", str(event.reason))
            span.set_status(StatusCode.ERROR, str(event.reason))
        span.end(_nanoseconds(at))

    def _url(self, event: ExecutionChanged) -> str:
        if not self._public_url:
            return ""
        job = f"{self._public_url.rstrip('/')}/tasks/{quote(event.task_id, safe='')}"
        return f"{job}/jobs/{event.job_id}/executions/{event.execution_id}/"


def _of_pipeline(event: ExecutionChanged, url: str) -> Attributes:
    found: dict[str, str | int] = {
        "cicd.pipeline.name": event.task_id,
        "cicd.pipeline.action.name": "RUN",
        "cicd.pipeline.run.id": event.execution_id,
        "cicd.pipeline.result": _result(event),
        "fastlane.job.id": event.job_id,
        "fastlane.attempt": event.attempt,
        "fastlane.trigger": str(event.trigger),
        "fastlane.farm": event.farm,
    }
    return found | ({"cicd.pipeline.run.url.full": url} if url else {})


def _of_task(event: ExecutionChanged, name: str) -> Attributes:
    found: dict[str, str | int] = {
        "cicd.pipeline.task.name": name,
        "cicd.pipeline.task.run.id": f"{event.execution_id}/{name}",
    }
    if name == "run":
        found["cicd.pipeline.task.run.result"] = _result(event)
        if event.exit_code is not None:
            found["process.exit.code"] = event.exit_code
    if name != "wait" and event.host:
        found["cicd.worker.name"] = event.host
    return found


def _result(event: ExecutionChanged) -> str:
    """In the words of ``cicd.pipeline.result``."""
    if event.reason is Reason.STOPPED:
        return "cancellation"
    if event.reason in _NOT_THE_JOBS:
        return "error"
    return {
        Status.DONE: "success",
        Status.TIMEDOUT: "timeout",
        Status.EXPIRED: "skip",
    }.get(event.status, "failure")


def _nanoseconds(at: float) -> int:
    return int(at * 1e9)
