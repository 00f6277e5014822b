"""The pages about the server itself: about, hosts and notifications."""

from __future__ import annotations

from typing import ClassVar

from fastlane.api.handlers.host_list import list_hosts
from fastlane.api.handlers.notifications import load_notifications
from fastlane.api.handlers.status import load_status
from fastlane.api.pages.items import executions
from fastlane.api.pages.page import Page, Values
from fastlane.api.security import Role
from fastlane.config import options
from fastlane.model import Status
from fastlane.redact import redactor
from fastlane.storage.base import ExecutionFilter

# How much of the queue is shown.
QUEUE_SHOWN = 20


class AboutPage(Page):
    """``/status/``"""

    template: ClassVar[str] = "about"

    async def frame(self, *_: str | None) -> Values:
        config = self.services.config
        if self.principal.role < Role.OPERATOR:
            return {"options": None}
        hide = redactor(tuple(config.env_blacklisted_words))
        return {"options": [(one, hide.text(one.value)) for one in options(config)]}

    async def state(self) -> Values:
        return {
            "status": await load_status(self),
            "roles": self.services.config.roles,
            "instance": self.services.lifecycle.instance,
        }

    fragments: ClassVar = {"state": state}


class NotificationsPage(Page):
    """``/notifications/``"""

    template: ClassVar[str] = "notifications"

    async def listed(self) -> Values:
        return {"page": await load_notifications(self), "state": self._state}

    async def frame(self, *_: str | None) -> Values:
        return {"state": self._state}

    @property
    def _state(self) -> str:
        return self.get_query_argument("state", "failed")

    fragments: ClassVar = {"list": listed}


class HostsPage(Page):
    """``/hosts/``"""

    template: ClassVar[str] = "hosts"

    async def listed(self) -> Values:
        return {"farms": (await list_hosts(self.services, self.urls))["farms"]}

    async def queue(self) -> Values:
        wanted = ExecutionFilter(statuses=frozenset({Status.ENQUEUED}))
        return {"page": await executions(self, wanted, size=QUEUE_SHOWN)}

    fragments: ClassVar = {"list": listed, "queue": queue}
