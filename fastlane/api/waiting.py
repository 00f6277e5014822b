"""Why an execution does not run yet, worked out when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastlane.api.services import Services
from fastlane.model import Execution, Status, Stream

# Bounds what is read of the notes on a pull; the last line is shown.
PROGRESS_BYTES = 1024


async def reasons(services: Services, executions: Sequence[Execution]) -> dict[str, str | None]:
    """For each of *executions*, by its id, a sentence; None where there is nothing to say.

    Of one that is enqueued what it waits for; of one that is pulling how far that is.
    """
    found: dict[str, str | None] = {one.id: None for one in executions}
    running: Counter[str] | None = None
    for one in executions:
        if one.status is Status.PULLING:
            found[one.id] = await _progress(services, one)
        elif one.status is Status.ENQUEUED:
            if running is None:
                running = Counter()
                counts = await services.storage.executions.active_counts()
                for (farm, _), count in counts.items():
                    running[farm] += count
            found[one.id] = _waits_for(services, one, running)
    return found


def _waits_for(services: Services, execution: Execution, running: Counter[str]) -> str | None:
    if execution.waits_for is not None:
        return f"It waits for execution {execution.waits_for} to end."
    if execution.due_at is not None:
        return "It is a retry whose delay has not passed."
    farm = next((farm for farm in services.farms if farm.name == execution.farm), None)
    if farm is None:
        return f'No farm matches task "{execution.task_id}"; add one to DOCKER_HOSTS.'
    blocked = services.hosts.blocked(farm.hosts)
    if blocked is not None:
        return blocked
    if running[farm.name] >= farm.max_running:
        return (
            f"Farm {farm.name} runs {running[farm.name]} executions, the most it may run at a time."
        )
    return None


async def _progress(services: Services, execution: Execution) -> str | None:
    notes, _ = await services.storage.logs.tail(
        execution.id, Stream.FASTLANE, max_bytes=PROGRESS_BYTES
    )
    last = notes.decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("[fastlane: ").removesuffix("]") or None
