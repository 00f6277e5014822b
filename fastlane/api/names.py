"""Names of jobs, which a path may have in the place of an id."""

from __future__ import annotations

import re
import uuid

# WATCH.md, "Steering".
JOB_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def uuid_of(text: str) -> uuid.UUID | None:
    """The UUID that *text* spells in any way; None if it spells none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
