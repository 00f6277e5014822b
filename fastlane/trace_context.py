"""Which trace an execution is in. All of it follows from the record, so any instance knows it.

The trace is that of the ``traceparent`` which came with the job (W3C Trace Context), or one of the
execution's own, whose id is the execution's.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass

# W3C Trace Context, section 3.2. A later version may have more at the end (section 3.2.4).
_TRACEPARENT = re.compile(
    r"(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
    r"|(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?)"
)
MAX_CHARS = 512


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a ``traceparent`` names."""

    trace_id: int
    span_id: int
    flags: int


def parent_of(traceparent: str | None) -> Parent | None:
    """What *traceparent* names; None where it is missing or malformed, as the standard says."""
    found = _TRACEPARENT.fullmatch((traceparent or "")[:MAX_CHARS].strip())
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups() if part is not None)
    return Parent(trace_id, span_id, flags) if trace_id and span_id else None


def trace_id_of(execution_id: str, traceparent: str | None) -> int:
    """The trace in which the spans of an execution are."""
    parent = parent_of(traceparent)
    return uuid.UUID(execution_id).int if parent is None else parent.trace_id


def span_id_of(execution_id: str, name: str) -> int:
    """The id of the span *name* of an execution."""
    digest = hashlib.sha256(f"{execution_id}/{name}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1


def traceparent_of_run(execution_id: str, traceparent: str | None) -> str:
    """The ``traceparent`` that the run itself gets: the parent of what it does is its span."""
    parent = parent_of(traceparent)
    trace_id, span_id = trace_id_of(execution_id, traceparent), span_id_of(execution_id, "run")
    return f"00-{trace_id:032x}-{span_id:016x}-{1 if parent is None else parent.flags & 1:02x}"
