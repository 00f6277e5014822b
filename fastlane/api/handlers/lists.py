"""Lists over all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from fastlane.api import large
from fastlane.api.base import BaseHandler
from fastlane.api.lookup import job_in_filter
from fastlane.api.paging import MAX_PER_PAGE
from fastlane.api.parameters import Parameter, number
from fastlane.api.problems import Problem
from fastlane.api.schemas import listed, responses
from fastlane.api.services import Services
from fastlane.api.urls import Urls
from fastlane.api.waiting import reasons
from fastlane.checks import shown
from fastlane.model import ACTIVE, FINAL, Execution, JobState, Reason, Status, Trigger
from fastlane.storage.base import ExecutionFilter, JobFilter

ITEMS_PER_PAGE = 20
# Bounds the text that is split into words and looked up.
QUERY_MAX_CHARS = 1000


def _text(name: str, description: str, **more: str) -> Parameter:
    return Parameter(name, description, {"type": "string"}, **more)  # type: ignore[arg-type]


_STATUSES = {
    "waiting": (Status.ENQUEUED,),
    "active": tuple(sorted(ACTIVE)),
    "final": tuple(sorted(FINAL)),
}
_TASK = _text("task", r"A task id, or its beginning followed by `*`. `\*` is a literal star.")
_JOB = _text("job", "A job id, or with a whole task id in `task` the name of a job.")
_STATUS = _text(
    "status",
    "Comma-separated statuses. `waiting` (enqueued), `active` (pulling, running) and `final` "
    "are groups.",
    example="failed,timedout",
)
_REASON = _text("reason", f"Comma-separated: {', '.join(Reason)}.", example="exit-code")
_TRIGGER = _text("trigger", f"Comma-separated: {', '.join(Trigger)}.", example="cron,retry")
_FARM = _text("farm", "The name of a farm.")
_HOST = _text("host", "Where it runs or ran, as in the items.")
_SINCE = _text(
    "since",
    "Created at this time or later: unix seconds, RFC 3339, or a duration back from now.",
    example="24h",
)
_UNTIL = _text("until", "Created before this time. As `since`.", example="1h")
_Q = Parameter(
    "q",
    "Words of the task id, or the beginning of a job or execution id (4 characters at least).",
    {"type": "string", "maxLength": QUERY_MAX_CHARS},
    example="billing",
)
_PER_PAGE = number("perPage", "How many items a page has.", 1, MAX_PER_PAGE, ITEMS_PER_PAGE)
_CURSOR = _text("cursor", "Opaque: part of `nextUrl`.")
EXECUTION_FILTERS = (_TASK, _JOB, _STATUS, _REASON, _TRIGGER, _FARM, _HOST, _SINCE, _UNTIL, _Q)
LISTED = (_PER_PAGE, _CURSOR)


async def execution_filter(handler: BaseHandler) -> ExecutionFilter:
    """What the query of a request asks for.

    :raises Problem: 400, a value is wrong.
    """
    now, storage = handler.services.clock(), handler.services.storage
    task_id, prefix = _task(_TASK.text(handler))
    job = _JOB.text(handler)
    return ExecutionFilter(
        task_id=task_id,
        task_prefix=prefix,
        job_id=None if job is None else await job_in_filter(storage, task_id, job),
        statuses=frozenset(map(Status, _STATUS.choices(handler, Status, _STATUSES))),
        reasons=frozenset(map(Reason, _REASON.choices(handler, Reason))),
        triggers=frozenset(map(Trigger, _TRIGGER.choices(handler, Trigger))),
        farm=_FARM.text(handler),
        host=_HOST.text(handler),
        since=_SINCE.moment(handler, now),
        until=_UNTIL.moment(handler, now),
        query=_query_text(handler),
    )


def _query_text(handler: BaseHandler) -> str | None:
    """What is looked for; None for nothing."""
    text = (_Q.text(handler) or "").strip()
    if len(text) > QUERY_MAX_CHARS:
        raise Problem(400, f"q has {len(text)} characters; the maximum is {QUERY_MAX_CHARS}.")
    return text or None


def _task(text: str | None) -> tuple[str | None, str | None]:
    """The task id and the beginning of task ids that *text* names."""
    if text is None:
        return None, None
    is_prefix = text.endswith("*") and not text.endswith(r"\*")
    *parts, last = (text[:-1] if is_prefix else text).split(r"\*")
    name = "*".join((*parts, last))
    if "*" in "".join((*parts, last)):
        raise Problem(
            400, rf"task is {shown(text)}; a star may only end it. For a literal star, write \*."
        )
    return (None, name) if is_prefix else (name, None)


def _query(handler: BaseHandler, filters: Sequence[Parameter], size: int) -> dict[str, object]:
    """What the link to the next page repeats."""
    query: dict[str, object] = {one.name: one.text(handler) for one in filters}
    query["perPage"] = None if size == ITEMS_PER_PAGE else size
    return query


async def list_executions(handler: BaseHandler, wanted: ExecutionFilter) -> responses.ExecutionPage:
    """The page that the query of *handler* asks for."""
    services, urls = handler.services, handler.urls
    size = _PER_PAGE.number(handler) or ITEMS_PER_PAGE
    page = await services.storage.lists.executions(
        wanted, size=size, after=_CURSOR.text(handler) or None
    )
    return {
        "items": await execution_items(services, urls, page.items),
        **listed.list_keys(page, urls.executions(), size, _query(handler, EXECUTION_FILTERS, size)),
    }


async def execution_items(
    services: Services, urls: Urls, found: Sequence[Execution]
) -> list[responses.ExecutionItem]:
    """The items of a page of executions."""
    waiting = await reasons(services, found)
    names = await services.storage.lists.names_of_jobs(list({one.job_id for one in found}))
    words = services.config.env_blacklisted_words

    def items() -> list[responses.ExecutionItem]:
        return [
            listed.execution_item(one, words, urls, waiting[one.id], names.get(one.job_id))
            for one in found
        ]

    characters = sum(large.size([one.definition.command.argv, one.error]) for one in found)
    return await large.off_the_loop(characters, items)


_STATE = _text("state", f"The first that holds of: {', '.join(JobState)}.", example="scheduled")
_KIND = _text("kind", "`cron`, or `once` for all others.", example="cron")
JOB_FILTERS = (_TASK, _STATE, _KIND, _Q)
# What a cron expression costs to put into words, in characters that are looked at for secrets.
WORDS_CHARS = 2000


def job_filter(handler: BaseHandler) -> JobFilter:
    """What the query of a request asks for.

    :raises Problem: 400, a value is wrong.
    """
    task_id, prefix = _task(_TASK.text(handler))
    state, kind = _STATE.one_of(handler, JobState), _KIND.one_of(handler, ("cron", "once"))
    return JobFilter(
        task_id=task_id,
        task_prefix=prefix,
        state=None if state is None else JobState(state),
        is_cron=None if kind is None else kind == "cron",
        query=_query_text(handler),
    )


async def list_jobs(handler: BaseHandler, wanted: JobFilter) -> responses.JobPage:
    """The page that the query of *handler* asks for."""
    services, urls = handler.services, handler.urls
    size = _PER_PAGE.number(handler) or ITEMS_PER_PAGE
    lists = services.storage.lists
    page = await lists.jobs(wanted, size=size, after=_CURSOR.text(handler) or None)
    last = await lists.last_of_jobs([one.job.id for one in page.items])
    words = services.config.env_blacklisted_words

    def items() -> list[responses.JobListItem]:
        return [listed.job_list_item(one, last.get(one.job.id), words, urls) for one in page.items]

    characters = sum(
        large.size([one.job.definition.command.argv])
        + WORDS_CHARS * (one.job.schedule.cron is not None)
        for one in page.items
    )
    return {
        "items": await large.off_the_loop(characters, items),
        **listed.list_keys(page, urls.jobs(), size, _query(handler, JOB_FILTERS, size)),
    }


class Jobs(BaseHandler):
    """``/jobs/``"""

    async def get(self) -> None:
        """Jobs of all tasks, newest first. Pages are as those of `/executions/`."""
        await self.send_json(await list_jobs(self, job_filter(self)))


class Executions(BaseHandler):
    """``/executions/``"""

    async def get(self) -> None:
        """Executions of all tasks, newest first.

        A request reads a bounded part of the records, so with several filters a page may have
        fewer items than `perPage`, even none, although more follow: follow `nextUrl` until it is
        null.
        """
        await self.send_json(await list_executions(self, await execution_filter(self)))
