"""Executions as the pages list them: the items of ``GET /executions/``."""

from __future__ import annotations

from fastlane.api.base import BaseHandler
from fastlane.api.schemas import listed, responses
from fastlane.api.waiting import reasons
from fastlane.storage.base import ExecutionFilter


async def executions(
    handler: BaseHandler, wanted: ExecutionFilter, *, size: int, after: str | None = None
) -> responses.ExecutionPage:
    """The newest *size* executions that *wanted* names, or those after the cursor *after*."""
    services, urls = handler.services, handler.urls
    page = await services.storage.lists.executions(wanted, size=size, after=after)
    waiting = await reasons(services, page.items)
    words = services.config.env_blacklisted_words
    return {
        "items": [listed.execution_item(one, words, urls, waiting[one.id]) for one in page.items],
        **listed.list_keys(page, urls.executions(), size, {}),
    }


def older(page: responses.ListKeys) -> str | None:
    """The query that leads on from *page* where the list is a part of its page."""
    following = page["nextUrl"]
    return following and f"?cursor={following.rpartition('cursor=')[2]}"
