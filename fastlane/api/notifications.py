"""Notifications that are pending or could not be delivered."""

from __future__ import annotations

from fastlane.api.base import BaseHandler
from fastlane.api.paging import requested_page
from fastlane.api.problems import Problem
from fastlane.api.schemas import notifications as schemas
from fastlane.api.schemas.common import page_keys
from fastlane.model import DeliveryState

NOTIFICATIONS_PER_PAGE = 20
STATES = (DeliveryState.FAILED, DeliveryState.PENDING)


class Notifications(BaseHandler):
    """``/notifications/``"""

    async def get(self) -> None:
        request = requested_page(self, NOTIFICATIONS_PER_PAGE)
        state = self._state()
        page = await self.services.storage.deliveries(state, request)
        keys = page_keys(
            page, request, self.urls.notifications(), per_page=NOTIFICATIONS_PER_PAGE, state=state
        )
        items = [schemas.notification(delivery, self.urls) for delivery in page.items]
        found: schemas.NotificationPage = {**keys, "items": items}
        await self.send_json(found)

    def _state(self) -> DeliveryState:
        text = self.get_query_argument("state", DeliveryState.FAILED)
        if text not in STATES:
            raise Problem(400, f"state is {text[:50]!r}; it must be one of {', '.join(STATES)}.")
        return DeliveryState(text)


class RequeueNotification(BaseHandler):
    """``/notifications/N/requeue/``"""

    async def post(self, notification_id: str) -> None:
        delivery = await self.services.lifecycle.requeue_delivery(notification_id)
        await self.send_json(schemas.notification(delivery, self.urls))
