"""The functions of the scripts, called in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver

from tests.api.log_site import serve_in_thread

_CALL = """
const [file, name, given, done] = arguments;
import(`/static/${file}`).then((module) => module[name](...given))
  .then((value) => done({ value }), (error) => done({ error: error.message }));
"""


@pytest.fixture
def window(
    chromium: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webdriver.Chrome]:
    with serve_in_thread(tmp_path_factory.mktemp("scripts")) as site:
        chromium.get(site.site.url("/new/?as=html", "http"))
        yield chromium
        chromium.get("about:blank")


def test_functions(window: webdriver.Chrome) -> None:
    def call(file: str, name: str, *given: Any) -> Any:
        answer = window.execute_async_script(_CALL, file, name, list(given))
        return answer.get("value", answer.get("error"))

    for seconds, words in (
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
    ):
        assert call("times.js", "span", seconds) == words
    assert call("times.js", "elapsed", 59.9) == "59 s"
    now = 1_700_000_000_000
    for milliseconds, words in (
        (-4_000, "now"),
        (-30_000, "30 s ago"),
        (61_000, "in 1 min"),
        (-7_300_000, "2 h ago"),
        (-200_000_000, "2 d ago"),
    ):
        assert call("times.js", "ago", now + milliseconds, now) == words
    assert call("rerun.js", "variables", "A=1\n\nB=x=y\n") == {"A": "1", "B": "x=y"}
    assert call("rerun.js", "variables", "nothing") == '"nothing" is not NAME=value.'
    assert call("rerun.js", "commandOf", '["a", "b c"]') == ["a", "b c"]
    assert call("rerun.js", "commandOf", "[ -f x ]") == "[ -f x ]"
    assert call("new.js", "quoted", "it's") == "'it'\"'\"'s'"
    assert call("new.js", "quoted", "plain-1.2") == "plain-1.2"
    commands = call(
        "new.js", "commands", "a b", {"image": "x:1", "command": ["echo", "a b"], "retries": 2}
    )
    assert commands["run"] == "fastlane run --task 'a b' --retries 2 x:1 -- echo 'a b'"
    assert "/tasks/a%20b/ -d '{" in commands["curl"]
    assert '"command":["echo","a b"]' in commands["curl"]
