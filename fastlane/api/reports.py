"""What notifications say of an execution, in the shapes of the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from fastlane.api.handlers.executions import read_outputs
from fastlane.api.schemas.build import report
from fastlane.api.urls import Urls
from fastlane.model import Command, Event, Execution
from fastlane.notifications.base import Report
from fastlane.redact import redactor
from fastlane.storage.base import Storage
from fastlane.stored_events import notified_event_id


class Reports:
    """Describes executions to receivers, with links below one base URL."""

    def __init__(self, storage: Storage, words: Sequence[str], base_url: str) -> None:
        """:param words: names of environment variables that hold one of these are not shown."""
        self._storage = storage
        self._words = words
        self.base_url = base_url

    async def describe(self, execution: Execution, event: Event) -> Report:
        """The execution as it is now, with the ends of its log."""
        outputs = await read_outputs(self._storage, [execution])
        urls = Urls(self.base_url)
        body = report(execution, outputs[execution.id], self._words, urls)
        return Report(
            execution=self._redacted(execution),
            log=body["log"],
            log_truncated=body["logTruncated"],
            error=body["error"],
            error_truncated=body["errorTruncated"],
            url=body["url"],
            job_url=body["jobUrl"],
            task_url=body["taskUrl"],
            # ASCII: a log may hold what UTF-8 cannot carry.
            body=json.dumps(
                {"event": event, "eventId": notified_event_id(execution, event), **body}
            ).encode(),
        )

    def _redacted(self, execution: Execution) -> Execution:
        hide, definition = redactor(tuple(self._words)), execution.definition
        command = hide.command(definition.command.submitted)
        definition = replace(
            definition,
            command=Command(command, (command,) if isinstance(command, str) else command),
            envs=hide.mapping(definition.envs),
            custom=hide.value(definition.custom),
            subscriptions=(),
        )
        error = execution.error and hide.text(execution.error)
        return replace(execution, definition=definition, error=error)
