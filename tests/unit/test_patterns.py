"""Patterns of the configuration, on texts that strangers choose."""

from __future__ import annotations

import pytest

from fastlane.patterns import Pattern


def test_a_pattern_is_found_anywhere() -> None:
    assert Pattern("^build-").is_in("build-1")
    assert not Pattern("^build-").is_in("re-build-1")
    assert Pattern("").is_in("anything")
    assert Pattern("é+").is_in("caféé")


@pytest.mark.timeout(10)
def test_no_pattern_backtracks_without_end() -> None:
    """REGRESSIONS 41."""
    assert not Pattern("(a+)+$").is_in("a" * 255 + "!")
    assert not Pattern("(.*)*(.*)*(.*)*x$").is_in("a" * 255)


@pytest.mark.parametrize("text", ["(", "(?=a)", r"(a)\1", "[", "a{100000}"])
def test_what_cannot_be_bounded_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Pattern(text)
