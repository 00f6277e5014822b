"""Traces: what a local collector gets of one job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fastlane.server import Server
from fastlane.trace_context import parent_of
from tests.api.conftest import MakeSite
from tests.api.http_site import PAYLOAD, Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.url = ""

    async def accept(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            self.services |= {
                one.value.string_value
                for one in resource.resource.attributes
                if one.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.accept)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes
    }


async def ended(site: Site, exit_code: int = 0, **headers: str) -> tuple[dict[str, Any], str]:
    """Run a job of the task ``traced``: the answer, and the ``TRACEPARENT`` of the run."""
    job = (await site.post("/tasks/traced/", PAYLOAD, **headers)).json
    run = await site.run_of(job)
    run.end(exit_code)
    await site.status(job, "done", "failed")
    return job, dict(run.spec.envs)["TRACEPARENT"]


async def stopped(site: Site) -> None:
    """What was not sent yet is sent."""
    await asyncio.to_thread(_tracing(site.server).close)


def _tracing(server: Server) -> Any:
    assert server.parts.tracing is not None
    return server.parts.tracing


async def test_the_spans_of_one_job(make_site: MakeSite, collector: Collector) -> None:
    site = await make_site(
        executor=MemoryExecutor(),
        otel_exporter_otlp_endpoint=collector.url,
        public_url="https://jobs.example.org",
    )
    job, inside = await ended(site, traceparent=TRACEPARENT)
    await stopped(site)
    assert collector.services == {"fastlane"}
    root = collector.named("RUN traced")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert root.kind == Span.SPAN_KIND_SERVER
    found = attributes(root)
    assert found["cicd.pipeline.name"] == "traced"
    assert found["cicd.pipeline.run.id"] == job["executionId"]
    assert found["cicd.pipeline.result"] == "success"
    assert found["cicd.pipeline.run.url.full"].startswith("https://jobs.example.org/tasks/traced/")
    parts = [collector.named(name) for name in ("wait", "pull", "run")]
    for part in parts:
        assert (part.trace_id, part.parent_span_id) == (root.trace_id, root.span_id)
    times = [(part.start_time_unix_nano, part.end_time_unix_nano) for part in parts]
    assert times == sorted(times)
    assert times[0][0] == root.start_time_unix_nano
    assert times[2][1] == root.end_time_unix_nano
    run = parts[2]
    assert inside == f"00-{TRACE}-{run.span_id.hex()}-01"
    assert attributes(run)["cicd.pipeline.task.run.result"] == "success"
    assert attributes(run)["process.exit.code"] == 0


async def test_failures_and_their_retries(make_site: MakeSite, collector: Collector) -> None:
    """Without a parent each attempt has a trace of its own, and a link to the one before."""
    site = await make_site(executor=MemoryExecutor(), otel_exporter_otlp_endpoint=collector.url)
    job = await site.submit("traced", retries=1, backoff={"minMs": 0})
    (await site.run_of(job)).end(3)
    details = await site.status(job, "failed")

    async def retried() -> Any:
        found = (await site.get(job["jobUrl"])).json["job"]["executions"]
        return found[0] if len(found) == 2 else None

    again = await eventually(retried)
    (await site.executor.started(again["executionId"])).end(0)
    await site.status_at(again["url"], "done")
    await stopped(site)
    first, second = sorted(
        (span for span in collector.spans if span.name == "RUN traced"),
        key=lambda span: span.start_time_unix_nano,
    )
    assert details["status"] == "failed"
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert attributes(first)["error.type"] == "exit-code"
    assert first.trace_id.hex() == job["executionId"].replace("-", "")
    assert first.parent_span_id == b""
    assert second.trace_id != first.trace_id
    (link,) = second.links
    assert (link.trace_id, link.span_id) == (first.trace_id, first.span_id)


async def test_a_cron_tick_begins_a_trace(make_site: MakeSite, collector: Collector) -> None:
    site = await make_site(executor=MemoryExecutor(), otel_exporter_otlp_endpoint=collector.url)
    body = {**PAYLOAD, "cron": "* * * * *"}
    job = (await site.post("/tasks/traced/", body, traceparent=TRACEPARENT)).json
    stored = await site.storage.jobs.get("traced", job["jobId"])
    execution = await site.server.lifecycle.run_tick(stored)
    assert execution is not None
    (await site.executor.started(execution.id)).end(0)
    await site.status_at(f"{job['jobUrl']}executions/{execution.id}/", "done")
    await stopped(site)
    root = collector.named("RUN traced")
    assert (root.trace_id.hex(), root.parent_span_id) == (execution.id.replace("-", ""), b"")


async def test_without_a_collector_nothing_is_traced(make_site: MakeSite) -> None:
    site = await make_site(executor=MemoryExecutor())
    job = (await site.post("/tasks/traced/", PAYLOAD, traceparent=TRACEPARENT)).json
    run = await site.run_of(job)
    assert "TRACEPARENT" not in run.spec.envs
    assert site.server.parts.tracing is None


async def test_a_collector_that_is_gone_harms_nothing(make_site: MakeSite) -> None:
    site = await make_site(
        executor=MemoryExecutor(), otel_exporter_otlp_endpoint="http://127.0.0.1:9"
    )
    await ended(site)
    assert (await site.get("/healthcheck/")).status == 200


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        (TRACEPARENT, True),
        (f"01-{TRACE}-{SPAN}-01-more", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (TRACEPARENT.upper(), False),
        ("", False),
        (None, False),
    ],
)
def test_traceparent(text: str | None, is_valid: bool) -> None:
    """W3C Trace Context, section 3.2: what is malformed is ignored."""
    assert (parent_of(text) is not None) is is_valid
