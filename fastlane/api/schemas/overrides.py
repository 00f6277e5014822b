"""What ``run/``, ``retry/`` and ``rerun/`` change for one execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from fastlane.api.problems import Fault
from fastlane.api.schemas.json_body import check_items, read_json_object
from fastlane.api.schemas.masks import Masks
from fastlane.api.schemas.payload import (
    CommandWords,
    Envs,
    Image,
    ResourcesPayload,
    Timeout,
    off_the_loop,
    validated,
)
from fastlane.checks import PayloadModel
from fastlane.config import Config
from fastlane.model import Definition
from fastlane.redact import redactor


class Overrides(PayloadModel):
    """What is different in this one execution; the job stays as it is."""

    command: CommandWords | None = None
    envs: Envs = Field(default_factory=dict, description="Added to the job's, or in their place.")
    image: Image | None = None
    timeout: Timeout | None = None
    resources: ResourcesPayload | None = Field(
        default=None, description="In place of the job's, as a whole."
    )

    def of(self, definition: Definition) -> Definition:
        """*definition* as it is for this execution."""
        given = {
            "command": self.command,
            "image": self.image,
            "timeout_seconds": self.timeout,
            "resources": None if self.resources is None else self.resources.limits(),
        }
        changes: Mapping[str, Any] = {key: one for key, one in given.items() if one is not None}
        return replace(definition, envs={**definition.envs, **self.envs}, **changes)


async def overridden(body: bytes, definition: Definition, config: Config) -> Definition:
    """*definition* with what *body*, which may be empty, says of one execution.

    ``***`` stands for the value that *definition* has.

    :raises Problem: 400 with every error.
    """
    if not body.strip():
        return definition
    words, limit = config.env_blacklisted_words, config.hard_execution_timeout_seconds

    def read() -> Definition:
        values = read_json_object(body, "the keys to override")
        check_items(inner for name, inner in values.items() if name != "command")
        faults: list[Fault] = []
        values = Masks(definition, redactor(words), words).restore(values, faults)
        return validated(Overrides, values, faults, words, limit).of(definition)

    return await off_the_loop(len(body), read)
