"""Notifications that are pending or could not be delivered."""

from __future__ import annotations

from fastlane.api import parameters
from fastlane.api.base import BaseHandler
from fastlane.api.paging import requested_page
from fastlane.api.schemas import build, responses
from fastlane.model import DeliveryState

NOTIFICATIONS_PER_PAGE = 20
DELIVERY_STATE = parameters.choice("state", "Which notifications.", "failed", "pending")


async def load_notifications(handler: BaseHandler) -> responses.NotificationPage:
    """The page that the query of *handler* asks for."""
    request, urls = requested_page(handler, NOTIFICATIONS_PER_PAGE), handler.urls
    state = DeliveryState(DELIVERY_STATE.choice(handler) or DeliveryState.FAILED)
    page = await handler.services.storage.outbox.in_state(state, request)
    keys = build.page_keys(
        page, request, urls.notifications(), per_page=NOTIFICATIONS_PER_PAGE, state=state
    )
    return {**keys, "items": [build.notification(delivery, urls) for delivery in page.items]}


class Notifications(BaseHandler):
    """``/notifications/``"""

    async def get(self) -> None:
        """Newest first: those that are out of retries (`failed`), or still to be delivered."""
        await self.send_json(await load_notifications(self))


class RequeueNotification(BaseHandler):
    """``/notifications/N/requeue/``"""

    async def post(self, notification_id: str) -> None:
        """From its first attempt, under the same id. Safe to repeat. 400 when it was delivered."""
        delivery = await self.services.lifecycle.requeue_delivery(notification_id)
        await self.send_json(build.notification(delivery, self.urls))
