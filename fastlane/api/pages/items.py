"""Executions as the pages list them: the items of ``GET /executions/``."""

from __future__ import annotations

from fastlane.api.base import BaseHandler
from fastlane.api.handlers.lists import execution_items
from fastlane.api.schemas import listed, responses
from fastlane.storage.base import ExecutionFilter


async def executions(
    handler: BaseHandler, wanted: ExecutionFilter, *, size: int, after: str | None = None
) -> responses.ExecutionPage:
    """The newest *size* executions that *wanted* names, or those after the cursor *after*."""
    services, urls = handler.services, handler.urls
    page = await services.storage.lists.executions(wanted, size=size, after=after)
    return {
        "items": await execution_items(services, urls, page.items),
        **listed.list_keys(page, urls.executions(), size, {}),
    }


def older(page: responses.ListKeys) -> str | None:
    """The query that leads on from *page* where the list is a part of its page."""
    following = page["nextUrl"]
    return following and f"?cursor={following.rpartition('cursor=')[2]}"
