"""From the ids of a path to records, or to a 404 that says which of them is not there."""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from fastlane.api.names import JOB_NAME, uuid_of
from fastlane.api.problems import Problem
from fastlane.api.schemas.masks import Masks
from fastlane.checks import shown
from fastlane.errors import NotFound
from fastlane.model import Execution, Job
from fastlane.redact import redactor
from fastlane.storage.base import Storage

# API.md: "A task id is an arbitrary name of 1 to 255 characters".
TASK_ID_MAX_CHARS = 255


# Unicode's Default_Ignorable_Code_Point that are not format characters (Cf), and
# an empty Braille pattern: DerivedCoreProperties.txt 15.1.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_INVISIBLE_CATEGORIES = {"Cf", "Zl", "Zp"}


async def check_task_id(storage: Storage, task_id: str) -> None:
    """Accept *task_id* if it may name a task, or if there is such a task.

    :raises Problem: 400 with what is wrong with it.
    """
    wrong = ""
    if not 1 <= len(task_id) <= TASK_ID_MAX_CHARS:
        wrong = f"has {len(task_id)} characters; it must have 1 to {TASK_ID_MAX_CHARS}"
    elif "/" in task_id:
        wrong = 'contains a slash; use another character, such as "-"'
    elif any(unicodedata.category(character) in {"Cc", "Cs"} for character in task_id):
        wrong = "contains a control character; leave it out"
    elif task_id != task_id.strip():
        wrong = "begins or ends with a space; leave it out"
    elif unusual := _wrong_with_new(task_id):
        # Earlier releases accepted it.
        try:
            await storage.tasks.get(task_id)
        except NotFound:
            wrong = unusual
    if wrong:
        raise Problem(400, f"Task id {shown(task_id[:50])} {wrong}.")


def _wrong_with_new(task_id: str) -> str:
    """Why no new task can have *task_id*; empty if one can."""
    if task_id in {".", ".."}:
        return "is a step in a path, which clients resolve; use another name"
    for character in task_id:
        invisible = unicodedata.category(character) in _INVISIBLE_CATEGORIES
        if invisible or _INVISIBLE.match(character):
            name = unicodedata.name(character, "no name")
            return (
                f"contains a character that cannot be seen, U+{ord(character):04X} ({name}); "
                "leave it out"
            )
    composed = unicodedata.normalize("NFC", task_id)
    if composed != task_id:
        return f'is not in Unicode\'s normal form NFC; in a URL, write "{quote(composed, safe="")}"'
    return ""


def check_job_name(name: str) -> str:
    """*name*, which is no id, if it may name a job.

    :raises Problem: 400, with what to do instead.
    """
    if not JOB_NAME.fullmatch(name):
        raise Problem(
            400,
            f"{shown(name[:50])} is neither the id of a job, a UUID4 such as {uuid.uuid4()}, nor a "
            "name: that begins with a-z or 0-9, continues with a-z, 0-9, dots, underscores and "
            "dashes, and has at most 100 characters.",
        )
    return name


def check_job_id(job_id: str) -> str:
    """*job_id* in its canonical form when it is a UUID4.

    :raises Problem: 400, with what to do instead.
    """
    parsed = uuid_of(job_id)
    if parsed is None or parsed.version != 4 or str(parsed) != job_id.lower():
        raise Problem(400, f"Job id {shown(job_id[:50])} is not a UUID4, such as {uuid.uuid4()}.")
    return str(parsed)


async def find_job(storage: Storage, task_id: str, job: str) -> Job:
    """The job of this id or, if it is no UUID, of this name.

    :raises NotFound: it is not there.
    """
    if uuid_of(job) is None and JOB_NAME.fullmatch(job):
        return await storage.jobs.named(task_id, job)
    return await storage.jobs.get(task_id, job.lower())


async def job_in_filter(storage: Storage, task_id: str | None, job: str) -> str:
    """The id of the job that a filter names by its id or, in a task, by its name.

    :param task_id: None where the filter does not name just one task.
    :raises Problem: 400, it is neither, or no job has the name.
    """
    if uuid_of(job) is not None:
        return check_job_id(job)
    if task_id is None or not JOB_NAME.fullmatch(job):
        raise Problem(
            400,
            f"job is {shown(job[:50])}; it must be the id of a job, a UUID4 such as "
            f"{uuid.uuid4()}, or the name of a job of the one task that task names.",
        )
    try:
        return (await storage.jobs.named(task_id, job)).id
    except NotFound as error:
        raise Problem(400, str(error)) from None


async def stored_masks(
    storage: Storage, words: Sequence[str], task_id: str, job_id: str, *, new: bool = False
) -> Masks:
    """What masks in a payload stand for: the values of this job.

    :param words: of secret names.
    :param new: the job need not be there.
    :raises NotFound: it is not.
    """
    stored = None
    try:
        stored = (await find_job(storage, task_id, job_id)).definition
    except NotFound:
        if not new:
            raise
    return Masks(stored, redactor(tuple(words)), words)


async def find_execution(
    storage: Storage, task_id: str, job_id: str, execution_id: str
) -> tuple[Job, Execution]:
    """:raises NotFound: the job or the execution is not there, or not in this task or job."""
    job = await storage.jobs.get(task_id, job_id)
    execution = await storage.executions.get(execution_id)
    if execution.job_id != job.id or execution.deleted_at is not None:
        raise NotFound(f"Job {shown(job_id)} has no execution {shown(execution_id[:50])}.")
    return job, execution


async def find_log(
    storage: Storage, task_id: str, job_id: str, execution_id: str | None
) -> tuple[Job, Execution | None]:
    """The job and the execution whose log is meant: the named one, or the job's last.

    :raises NotFound: the job or the execution is not there.
    """
    if execution_id is not None:
        return await find_execution(storage, task_id, job_id, execution_id)
    job = await storage.jobs.get(task_id, job_id)
    return job, await storage.executions.last_of_job(job.id)
