"""Every page in a real browser: at three widths, light and dark, by keyboard, live, without
scripts, and with texts that try to become scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_selenium_python import Axe
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from fastlane.model import Outcome, Reason, Schedule, Status
from tests.api.log_owner import FARM
from tests.api.log_site import ThreadedSite, serve_in_thread
from tests.browser.seed import NASTY, Seeded, seed

TIMEOUT = 20.0
# Pages that are looked at, by name; see Seeded.pages().
NAMES = (
    "overview",
    "executions",
    "executions of all",
    "tasks",
    "search",
    "task",
    "job",
    "schedule",
    "failed execution",
    "running execution",
    "nasty execution",
    "schedules",
    "hosts",
    "new job",
    "edit",
    "notifications",
    "about",
    "docs",
    "404",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedSite]:
    with serve_in_thread(tmp_path_factory.mktemp("pages")) as site:
        yield site


@pytest.fixture(scope="module")
def seeded(site: ThreadedSite) -> Seeded:
    return site.call(seed(site.site))


class Window:
    """The browser, as a person uses it."""

    def __init__(self, chromium: webdriver.Chrome, site: ThreadedSite) -> None:
        self.chromium = chromium
        self._site = site

    def open(self, path: str) -> None:
        self.complaints()
        self.chromium.get(self._site.site.url(path, "http"))

    def script(self, text: str, *arguments: Any) -> Any:
        return self.chromium.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        return self.chromium.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        """In one step, as the element may be in a fragment that is renewed meanwhile."""
        self.script("document.querySelector(arguments[0]).click()", selector)

    def text(self, selector: str) -> str:
        found = self.script(
            "return document.querySelector(arguments[0])?.textContent ?? ''", selector
        )
        return " ".join(str(found).split())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.find("body").send_keys(key)

    def wait(self, probe: Any, what: str, seconds: float = TIMEOUT) -> Any:
        return WebDriverWait(self.chromium, seconds, poll_frequency=0.02).until(
            lambda _: probe(), f"waited in vain for {what}"
        )

    def wait_text(self, selector: str, text: str) -> None:
        self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def live(self) -> None:
        """Wait until changes are seen."""
        self.wait(lambda: self.text("#live") == "Live", "the socket")
        self.wait(
            lambda: self.script(
                "return performance.getEntriesByType('resource')"
                ".some(e => e.name.includes('fragment='))"
            ),
            "a fragment",
        )

    def complaints(self) -> list[str]:
        entries: list[dict[str, str]] = self.chromium.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries]

    @contextmanager
    def size(self, width: int, scheme: str) -> Iterator[None]:
        cdp = self.chromium.execute_cdp_cmd
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        cdp("Emulation.setDeviceMetricsOverride", metrics)
        media = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        cdp("Emulation.setEmulatedMedia", {"features": media})
        try:
            yield
        finally:
            cdp("Emulation.clearDeviceMetricsOverride", {})
            cdp("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture
def window(chromium: webdriver.Chrome, site: ThreadedSite, seeded: Seeded) -> Iterator[Window]:
    yield Window(chromium, site)
    # The page's sockets end before its server does.
    chromium.get("about:blank")


# Where the page stands: its overflow, the hosts that it asked, and what an attack has done.
_FACTS = """
const root = document.documentElement;
return {
  over: Math.max(root.scrollWidth - window.innerWidth,
    // A card hides what is wider than it.
    ...[...document.querySelectorAll("main table")]
      .map((e) => e.scrollWidth - e.parentElement.clientWidth - 1)),
  hosts: [...new Set(performance.getEntriesByType("resource").map((e) => new URL(e.name).host))],
  host: location.host,
  injected: document.querySelectorAll("img[onerror], svg[onload], [onfocus]").length,
  title: document.title,
  h1: document.querySelectorAll("h1").length,
}
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_is_accessible_and_runs_nothing_of_its_texts(
    window: Window, seeded: Seeded, name: str
) -> None:
    path = seeded.pages()[name]
    for width, scheme, whole in ((1440, "light", True), (1024, "dark", False), (390, "dark", True)):
        with window.size(width, scheme):
            window.open(path)
            facts = window.script(_FACTS)
            assert facts["over"] <= 0, (name, width)
            assert set(facts["hosts"]) <= {facts["host"]}, (name, facts["hosts"])
            assert facts["injected"] == 0
            assert "owned" not in facts["title"].replace(NASTY, "")
            assert facts["h1"] == 1
            complaints = window.complaints()
            if name == "404":
                complaints = [one for one in complaints if "404 (Not Found)" not in one]
            assert complaints == [], (name, width)
            if whole:
                axe = Axe(window.chromium)
                axe.inject()
                # Its axe-core (3.1) does not know ARIA 1.2, in which an input may be a combobox.
                where: dict[str, Any] = {"exclude": [["#jump"]]}
                if name == "docs":
                    # All of it would take half a minute.
                    where["include"] = [[".bar"], [".docs > nav"], ["#createJob"]]
                found = axe.run(where, {"resultTypes": ["violations"]})
                found = found["violations"]
                assert found == [], axe.report(found)


def test_every_page_can_be_read_without_scripts(window: Window, seeded: Seeded) -> None:
    cdp = window.chromium.execute_cdp_cmd
    cdp("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        for name, path in seeded.pages().items():
            window.open(path)
            shown = window.find("body").text
            assert "need JavaScript" in shown, name
            assert len(window.find("main").text) > 20, name
        window.open("/executions/")
        window.find("form.filters input[name=task]").send_keys("nightly-report")
        window.find("form.filters button").click()
        window.wait(lambda: "task=nightly" in window.chromium.current_url, "the answer")
        assert "import" not in window.find("tbody").text
        assert "nightly-report" in window.find("tbody").text
    finally:
        cdp("Emulation.setScriptExecutionDisabled", {"value": False})


def test_changes_appear_within_a_second(window: Window, site: ThreadedSite, seeded: Seeded) -> None:
    window.open("/")
    window.live()
    lifecycle = site.site.services.lifecycle

    async def submit() -> None:
        definition = seeded.done.definition
        await lifecycle.submit(
            task_id="just-now", job_id=None, definition=definition, schedule=Schedule()
        )

    started = time.monotonic()
    site.call(submit())
    window.wait(lambda: "just-now" in window.text("[data-fragment=waiting]"), "the change", 2.0)
    # On a machine that does much else, too: a second is what the page waits at most.
    assert time.monotonic() - started < 1.5
    assert window.complaints() == []


def test_keys_and_the_jump_box(window: Window, seeded: Seeded) -> None:
    window.open("/")
    window.press("g", "e")
    window.wait(lambda: "/executions/" in window.chromium.current_url, "the executions")
    window.press("j")
    window.press("j")
    assert window.script("return document.querySelectorAll('tr.at').length") == 1
    row = window.script("return document.querySelector('tr.at').dataset.id")
    window.press("x")
    assert window.text("#selected") == "1 selected"
    window.script("document.activeElement.blur()")
    window.press("?")
    window.wait(lambda: window.find("#help").is_displayed(), "the keys")
    window.find("#help").send_keys(Keys.ESCAPE)
    window.press(Keys.CONTROL + "k")
    field = window.find("#jump input")
    window.wait(field.is_displayed, "the jump box")
    field.send_keys("train")
    window.wait_text("#jump-list", "train-model")
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL + "build")
    window.wait_text("#jump-list", "build-web")
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL + row[:8])
    window.wait_text("#jump-list", row[:8])
    field.send_keys(Keys.ENTER)
    window.wait(lambda: row in window.chromium.current_url, "the execution")


def test_an_action_says_what_will_happen(
    window: Window, site: ThreadedSite, seeded: Seeded
) -> None:
    window.open("/executions/?status=waiting&task=build-web")
    window.click("td.act button")
    assert "Stop this execution?" in window.text("#ask")
    window.click("#ask-no")
    storage = site.site.storage

    def status() -> Status:
        return site.call(storage.executions.get(seeded.waiting.id)).status

    assert status() is Status.ENQUEUED
    window.click("td.act button")
    window.click("#ask-yes")
    window.wait(lambda: status() is Status.FAILED, "the stop")
    window.wait_text("#toast", "It is being stopped.")
    window.wait_text("[data-fragment=list]", "No execution matches")


def test_a_failure_is_run_again_with_another_environment(window: Window, seeded: Seeded) -> None:
    """One of the six tasks: three clicks from the overview."""
    window.open("/")
    window.click(".failures .name")
    window.wait(lambda: window.find("[data-open=rerun]").is_displayed(), "the page")
    before = window.chromium.current_url
    window.click("[data-open=rerun]")
    envs = window.find("#rerun [name=envs]")
    envs.send_keys("DATE=2026-11-24")
    window.click("#rerun .primary")
    window.wait(lambda: window.chromium.current_url != before, "the new execution")
    window.wait_text(".facts", "DATE")


def test_a_cron_is_paused_and_resumed(window: Window, site: ThreadedSite, seeded: Seeded) -> None:
    window.open(seeded.path(seeded.cron))
    window.click("[data-url$='pause/']")
    window.click("#ask-yes")
    window.wait_text(".title", "Paused")
    window.click("[data-url$='resume/']")
    window.click("#ask-yes")
    window.wait_text(".title", "Scheduled")


def test_a_host_is_drained_and_put_back(window: Window) -> None:
    window.open("/hosts/")
    window.click("td.act button")
    window.click("#ask-yes")
    window.wait_text("[data-fragment=list]", "Drained")
    window.click("[data-method=DELETE]")
    window.click("#ask-yes")
    window.wait_text("[data-fragment=list]", "Available")


def test_a_new_job_is_checked_while_one_types(window: Window) -> None:
    window.open("/new/?task=from-a-form")
    window.find("[name=image]").send_keys("busybox:1.36")
    window.find("[name=command]").send_keys("echo hello")
    window.click("[value=cron]")
    window.find("[name=cron]").send_keys("0 3 * *")
    window.wait_text("[data-for='/cron']", "fields")
    window.find("[name=cron]").send_keys(" *")
    window.wait_text("#checked", "accepts")
    assert window.script("return document.querySelectorAll('#next-runs li').length") == 5
    assert "--cron '0 3 * * *'" in window.text("#as-run")
    window.click("[value=now]")
    window.wait_text("#as-curl", '{"image":"busybox:1.36","command":"echo hello"}')
    window.click("#new .primary")
    window.wait(lambda: "/executions/" in window.chromium.current_url, "the execution")


def test_the_theme_is_chosen_and_kept(window: Window) -> None:
    ink = "return getComputedStyle(document.body).backgroundColor"
    with window.size(1440, "light"):
        window.open("/")
        light = window.script(ink)
        window.click("#theme")
        window.click("#theme")
        dark = window.script(ink)
        assert dark != light
        window.open("/tasks/")
        assert window.script(ink) == dark
        window.click("#theme")
        assert window.script(ink) == light


def test_the_outcome_moves_the_page_on(window: Window, site: ThreadedSite, seeded: Seeded) -> None:
    window.open(seeded.path(seeded.running))
    window.live()
    lifecycle = site.site.services.lifecycle
    outcome = Outcome(Status.FAILED, Reason.OOM, 137)
    site.call(lifecycle.finish(seeded.running, outcome))
    window.wait_text(".state", "It used more memory than its limit allows")
    window.wait_text("#status", "failed")


def test_selected_executions_are_stopped_after_a_look_at_what_will_happen(
    window: Window, site: ThreadedSite, seeded: Seeded
) -> None:
    lifecycle = site.site.services.lifecycle

    async def submit() -> None:
        for _ in range(3):
            definition = seeded.done.definition
            await lifecycle.submit(
                task_id="many", job_id=None, definition=definition, schedule=Schedule()
            )

    site.call(submit())
    window.open("/executions/?task=many")
    window.click(".pick-all")
    assert window.text("#selected") == "3 selected"
    window.click("#stop-selected")
    window.wait_text("#ask-text", "3 of 3 selected executions end")
    window.click("#ask-yes")
    window.wait_text("#toast", "3 executions changed")
    window.wait(lambda: window.text("tbody").count("Stopped") == 3, "the stops")
    # A view is kept, under the name that the reader gives it.
    window.click("#save-view")
    window.click("#ask-yes")
    window.wait_text("#views", "many")


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_minute_of_fifty_jobs_a_second(
    window: Window, site: ThreadedSite, seeded: Seeded
) -> None:
    """No long task, no growth, and what happened last is there within a second."""
    lifecycle = site.site.services.lifecycle
    minute = 60.0

    async def job(number: int) -> None:
        definition = seeded.done.definition
        task_id = f"load-{number % 20}"
        await lifecycle.submit(
            task_id=task_id, job_id=None, definition=definition, schedule=Schedule()
        )
        execution = await lifecycle.claim(FARM, "localhost")
        if execution is not None:
            execution = await lifecycle.started(execution, f"run-{number}")
            await lifecycle.finish(execution, Outcome(Status.DONE, Reason.EXIT_CODE, 0))

    async def load() -> None:
        began = time.monotonic()
        for number in range(int(50 * minute)):
            await asyncio.sleep(began + number / 50 - time.monotonic())
            await job(number)

    def heap() -> float:
        window.chromium.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        return float(window.script("return performance.memory.usedJSHeapSize"))

    window.open("/")
    window.live()
    window.script(
        "window.long = []; new PerformanceObserver((list) => list.getEntries()"
        ".forEach((e) => window.long.push(e.duration))).observe({ entryTypes: ['longtask'] })"
    )
    before = heap()
    site.call(load(), 2 * minute)
    definition = seeded.done.definition
    last = lifecycle.submit(
        task_id="the-last", job_id=None, definition=definition, schedule=Schedule()
    )
    site.call(last)
    window.wait_text("[data-fragment=waiting]", "the-last")
    assert heap() - before < 5_000_000
    assert max(window.script("return window.long"), default=0) < 100
    assert window.complaints() == []
