"""Stopping, or running again, many executions at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from fastlane.api.base import BaseHandler
from fastlane.api.handlers.lists import execution_filter
from fastlane.api.problems import Problem
from fastlane.api.schemas.bulk import MOST_EXECUTIONS, Bulk, BulkItem, BulkResult, read_bulk
from fastlane.api.services import Services
from fastlane.errors import NotFound, Rejected, StorageUnavailable
from fastlane.model import ACTIVE, Execution, Status
from fastlane.storage.base import ExecutionFilter

# Bounds the parts of a list that are looked through; each is at most 10,000 entries of an index.
MOST_PARTS = 100
# Bounds what one request does at a time.
TOGETHER = 16
UNFINISHED = frozenset({Status.ENQUEUED, *ACTIVE})


class BulkHandler(BaseHandler):
    """Acts on the executions that the body names."""

    async def post(self) -> None:
        asked = read_bulk(self.request.body)
        found = await self._matching(asked)
        if asked.expected is not None and asked.expected != len(found):
            raise Problem(
                409,
                f"{len(found)} executions match, not {asked.expected}. Nothing was changed; look "
                "at them with a dry run.",
            )
        items: list[BulkItem] = []
        for start in range(0, len(found), TOGETHER):
            some = found[start : start + TOGETHER]
            if asked.dry_run:
                changed = await asyncio.gather(*map(self.applies_to, some))
                items += map(self._item, some, changed)
            else:
                items += await asyncio.gather(*map(self._act, some))
        answer: BulkResult = {
            "matched": len(found),
            "changed": sum(one["changed"] for one in items),
            "executions": items,
        }
        await self.send_json(answer)

    async def applies_to(self, execution: Execution) -> bool:
        """Whether there is something to do."""
        return True

    async def act(self, execution: Execution) -> Execution | None:
        """Do it; a new execution, or None where there is none."""
        raise NotImplementedError

    def narrowed(self, wanted: ExecutionFilter) -> ExecutionFilter:
        """*wanted* without what there is nothing to do for, unless it is named."""
        return wanted

    async def _act(self, execution: Execution) -> BulkItem:
        try:
            if not await self.applies_to(execution):
                return self._item(execution, False)
            new = await self.act(execution)
        except (NotFound, Rejected, StorageUnavailable):
            # The others are acted on, so the answer must say which.
            return self._item(execution, False)
        return self._item(await self._current(execution), True, new)

    async def _current(self, execution: Execution) -> Execution:
        try:
            return await self.services.storage.executions.get(execution.id)
        except (NotFound, StorageUnavailable):
            return execution

    def _item(self, execution: Execution, changed: bool, new: Execution | None = None) -> BulkItem:
        return {
            "executionId": execution.id,
            "url": self.urls.execution(execution),
            "taskId": execution.task_id,
            "jobId": execution.job_id,
            "status": execution.status,
            "changed": changed,
            "newExecutionId": None if new is None else new.id,
            "newExecutionUrl": None if new is None else self.urls.execution(new),
        }

    async def _matching(self, asked: Bulk) -> Sequence[Execution]:
        """:raises Problem: 400, neither ids nor a filter are given, or both, or too many match."""
        filters = asked.filters()
        if (asked.ids is None) is (not filters):
            raise Problem(400, "Give either ids or at least one filter of GET /executions/.")
        if asked.ids is not None:
            return await self._named(asked.ids)
        query = cast(BaseHandler, _Query(self.services, filters))
        wanted = self.narrowed(await execution_filter(query))
        found: list[Execution] = []
        cursor: str | None = None
        for _ in range(MOST_PARTS):
            size = MOST_EXECUTIONS + 1 - len(found)
            part = await self.services.storage.lists.executions(wanted, size=size, after=cursor)
            found += part.items
            cursor = part.next_cursor
            if len(found) > MOST_EXECUTIONS:
                raise Problem(
                    400,
                    f"More than {MOST_EXECUTIONS} executions match. Nothing was changed; narrow "
                    "the filters, for example with since and until.",
                )
            if cursor is None:
                return found
        raise Problem(400, "These filters look through too many executions; narrow them.")

    async def _named(self, ids: Sequence[str]) -> Sequence[Execution]:
        storage = self.services.storage

        async def find(execution_id: str) -> Execution | None:
            try:
                return await storage.executions.get(execution_id.lower())
            except NotFound:
                return None

        found: dict[str, Execution] = {}
        for start in range(0, len(ids), TOGETHER):
            some = await asyncio.gather(*map(find, ids[start : start + TOGETHER]))
            found |= {one.id: one for one in some if one is not None}
        hidden = await storage.deletions.hidden(list(found.values()))
        return [one for one in found.values() if one.id not in hidden]


class StopExecutions(BulkHandler):
    """``/executions/stop/``"""

    async def post(self) -> None:
        """Stops executions and their retries: those of `ids`, or that match the list's filters.

        Without `status`, only those that are not final match. More than 1,000 are a 400, and with
        `expected` another number than that is a 409. Nothing is changed then, nor in a dry run.
        """
        await super().post()

    async def applies_to(self, execution: Execution) -> bool:
        return await self.services.lifecycle.is_under_way(execution)

    def narrowed(self, wanted: ExecutionFilter) -> ExecutionFilter:
        return wanted if wanted.statuses else replace(wanted, statuses=UNFINISHED)

    async def act(self, execution: Execution) -> Execution | None:
        await self.services.lifecycle.stop_execution(
            execution.task_id, execution.job_id, execution.id
        )
        return None


class RerunExecutions(BulkHandler):
    """``/executions/rerun/``"""

    async def post(self) -> None:
        """Runs executions once more, each with its definition, beside those that run.

        Those of `ids`, or that match the list's filters; see stop. A repeat runs them once more.
        """
        await super().post()

    async def act(self, execution: Execution) -> Execution:
        return await self.services.lifecycle.rerun_execution(
            execution.task_id,
            execution.job_id,
            execution.id,
            request_ip=self.caller.address,
        )


class _Query:
    """The filters of a body, read as those of a query are."""

    def __init__(self, services: Services, values: Mapping[str, str]) -> None:
        self.services = services
        self._values = values

    def get_query_argument(self, name: str, default: str | None = None) -> str | None:
        return self._values.get(name, default)
