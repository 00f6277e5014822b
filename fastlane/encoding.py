"""The one JSON encoder."""

from __future__ import annotations

from typing import Any

import ujson


def to_json(value: Any, *, indent: int = 0) -> str:
    """*value* as JSON, with characters as they are; on one line unless *indent* is given."""
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, indent=indent)
