"""Answers that would hold up the event loop."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from fastlane.api import large

SMALL: tuple[Any, ...] = ({}, [], "", None, 1, {"a": [1, (2, "b")]}, "x" * large.LARGE_CHARS)
LARGE: tuple[Any, ...] = (
    "x" * (large.LARGE_CHARS + 1),
    {"a": {"b": ["x" * 200_000, {"c": "y" * 100_000}]}},
    ["é☃🐳\n\0" * 100] * 10_000,
    {f"key {number}": number for number in range(50_000)},
    {"a": [], "b": {}, "c": ["x" * 300_000, None, True, 1.5], "d": ()},
)


@pytest.mark.parametrize("value", SMALL)
def test_small(value: Any) -> None:
    assert not large.is_large(value)


@pytest.mark.parametrize("value", LARGE)
def test_large_is_encoded_as_small(value: Any) -> None:
    """The same JSON and the same tag, compressed or not, made of pieces that are not large."""
    assert large.is_large(value)
    plain = large.encode(value, compressed=False)
    packed = large.encode(value, compressed=True)
    assert json.loads(plain.body) == json.loads(json.dumps(value))
    assert gzip.decompress(packed.body) == plain.body
    assert plain.etag == packed.etag != large.encode([value], compressed=False).etag
