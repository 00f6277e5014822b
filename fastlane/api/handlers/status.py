"""How the server and its farms are."""

from __future__ import annotations

from collections import Counter

from fastlane.api.base import RETRY_AFTER_SECONDS, BaseHandler
from fastlane.api.schemas import build, responses
from fastlane.api.security import Role
from fastlane.errors import StorageUnavailable

# Bounds the list of scheduled jobs; the count beside it is whole.
SCHEDULED_SHOWN = 100


class Healthcheck(BaseHandler):
    """``/healthcheck/``"""

    async def get(self) -> None:
        """200 when it is, else 503 with what is wrong."""
        is_known = self.principal.role is not Role.ANONYMOUS
        try:
            parts = dict(await self.services.storage.check())
        except StorageUnavailable as error:
            parts = {"mongo": str(error), "redis": str(error)}
        errors = [
            # A message can name servers, which strangers must not learn.
            {"source": source, "message": message if is_known else "unavailable"}
            for source, message in parts.items()
            if message is not None
        ]
        if errors:
            self.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        await self.send_json(
            {
                "errors": errors,
                **{source: message is None for source, message in parts.items()},
                "backend": self.services.storage.name,
            },
            status=503 if errors else 200,
        )


async def load_status(handler: BaseHandler) -> responses.ServerStatus:
    """What the server does."""
    services, storage, urls = handler.services, handler.services.storage, handler.urls
    overview = await storage.overview()
    active = await storage.executions.active_runs()
    # Until they have ended, they hold their slots.
    hidden = await storage.deletions.hidden(active)
    scheduled = await storage.jobs.scheduled(SCHEDULED_SHOWN)
    running = Counter(one.host for one in active)
    running_of_farm = Counter(one.farm for one in active)
    return {
        "version": services.version,
        "executor": services.executors.default,
        "backend": storage.name,
        "containers": {
            "running": [
                build.running_container(one, urls) for one in active if one.id not in hidden
            ]
        },
        "hosts": [
            build.host_status(host, services.hosts, running[host], farm)
            for farm in services.farms
            for host in farm.hosts
        ],
        "farms": [
            build.farm_status(farm, services.hosts, running_of_farm[farm.name])
            for farm in services.farms
        ],
        "jobs": build.job_counts(overview, scheduled, urls),
        "queues": build.queues(overview),
        "tasks": {"count": overview.tasks},
    }


class Status(BaseHandler):
    """``/status/``"""

    async def get(self) -> None:
        """Running containers, hosts, queues and the jobs that have a next run."""
        await self.send_json(await load_status(self))
