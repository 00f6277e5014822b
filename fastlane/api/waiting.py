"""Why an execution does not run yet, worked out when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastlane.api.services import Services
from fastlane.model import Execution, Farm, Status, Stream
from fastlane.stored_events import waiting_text

# Bounds what is read of the notes on a pull; the last line is shown.
PROGRESS_BYTES = 1024
# What to do about a host that fails; executions wait for as long as that takes.
REMEDY = "Repair the host, or add another to the farm; the execution then starts by itself."
# Bounds how many executions ahead of another are counted.
AHEAD_COUNTED = 100


async def reasons(services: Services, executions: Sequence[Execution]) -> dict[str, str | None]:
    """For each of *executions*, by its id, a sentence; None where there is nothing to say.

    Of one that is enqueued what it waits for; of one that is pulling how far that is.
    """
    found: dict[str, str | None] = {one.id: None for one in executions}
    running: Counter[object] | None = None
    for one in executions:
        if one.status is Status.PULLING:
            found[one.id] = _trouble(services, one) or await _progress(services, one)
        elif one.status is Status.ENQUEUED:
            if running is None:
                running = Counter()
                counts = await services.storage.executions.active_counts()
                for (farm_name, task_id, _), count in counts.items():
                    running[farm_name] += count
                    running[farm_name, task_id] += count
            found[one.id] = await _waits_for(services, one, running)
    return found


async def _waits_for(
    services: Services, execution: Execution, running: Counter[object]
) -> str | None:
    """:param running: how many executions run, by farm and by (farm, task)."""
    if (delayed := waiting_text(execution)) is not None:
        return delayed
    farm = next((farm for farm in services.farms if farm.name == execution.farm), None)
    if farm is None:
        return f'No farm matches task "{execution.task_id}"; add one to DOCKER_HOSTS.'
    blocked = services.hosts.blocked(farm.hosts)
    if blocked is not None:
        records = [services.hosts.record(host) for host in farm.hosts]
        failing = any(one.failures and not one.blacklisted for one in records)
        return f"{blocked} {REMEDY}" if failing else blocked
    reason = _full(farm, execution.task_id, running)
    if reason is None:
        return None
    count = await services.storage.executions.ahead_of(
        execution, fifo=farm.fifo, limit=AHEAD_COUNTED
    )
    if not count:
        return reason
    start = "execution starts" if count == 1 else "executions start"
    return f"{reason} At least {count} {start} before this one."


def _full(farm: Farm, task_id: str, running: Counter[object]) -> str | None:
    here, of_task = running[farm.name], running[farm.name, task_id]
    if here >= farm.max_running:
        return f"Farm {farm.name} runs {here} executions, the most it may run at a time."
    if farm.max_running_per_task is not None and of_task >= farm.max_running_per_task:
        return (
            f'Task "{task_id}" runs {of_task} executions, the most that farm {farm.name} runs of '
            "one task at a time."
        )
    return None


def _trouble(services: Services, execution: Execution) -> str | None:
    """What keeps the host from running what it was given."""
    assert execution.host is not None
    record = services.hosts.record(execution.host)
    if not record.failures:
        return None
    return f"Its host does not run it, and is tried again ({record.error}). {REMEDY}"


async def _progress(services: Services, execution: Execution) -> str | None:
    notes, _ = await services.storage.logs.tail(
        execution.id, Stream.FASTLANE, max_bytes=PROGRESS_BYTES
    )
    last = notes.decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("[fastlane: ").removesuffix("]") or None
