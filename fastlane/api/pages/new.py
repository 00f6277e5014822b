"""``/new/``: the form for a new job, for one like an earlier one, and for changing one."""

from __future__ import annotations

from typing import Any, ClassVar

from fastlane.api.pages.commands import payload_of
from fastlane.api.pages.page import Page, Values
from fastlane.api.schemas import build
from fastlane.encoding import to_json

# The keys of a payload that have a field of their own; the others are JSON in one field.
FIELDS = (
    "image",
    "command",
    "envs",
    "cron",
    "timezone",
    "overlap",
    "startAt",
    "startIn",
    "retries",
    "timeout",
)


class NewPage(Page):
    """``/new/``"""

    template: ClassVar[str] = "new"

    async def get(self, *ids: str | None) -> None:
        """A form to submit or change a job, which the server checks while one types."""
        await super().get(*ids)

    async def frame(self, *_: str | None) -> Values:
        task_id = self.get_query_argument("task", "")
        edited = self.get_query_argument("edit", "")
        model = edited or self.get_query_argument("from", "")
        payload: dict[str, Any] = {}
        name = ""
        if model and task_id:
            services = self.services
            job = await services.storage.jobs.get(task_id, model)
            details = build.job_details(job, [], None, services.config, self.urls)
            payload, name = payload_of(details), f"job {job.id[:8]}"
        more = {key: value for key, value in payload.items() if key not in FIELDS}
        when = next((key for key in ("cron", "startAt") if payload.get(key) is not None), "now")
        return {
            "task_id": task_id,
            "edited": edited,
            "model": model,
            "name": name,
            "payload": payload,
            "more": to_json(more) if more else "",
            "when": self.get_query_argument("when", when),
        }
