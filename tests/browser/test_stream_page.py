"""The log page, watched in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from fastlane.model import Schedule, Stream
from tests.api.log_owner import FARM, Owner
from tests.api.log_site import ThreadedSite, serve_in_thread

# Bounds every wait for the browser, in seconds.
TIMEOUT = 20.0

OUT, ERR = Stream.STDOUT, Stream.STDERR


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ThreadedSite]:
    with serve_in_thread(tmp_path) as site:
        yield site


class PageUnderTest:
    """The page in a window, as a person sees it."""

    def __init__(self, window: webdriver.Chrome, site: ThreadedSite) -> None:
        self.window = window
        self.site = site

    def open(self, path: str) -> None:
        self.complaints()
        self.window.get(self.site.site.url(path, "http"))

    def element(self, identity: str) -> WebElement:
        return self.window.find_element(By.ID, identity)

    def text(self, identity: str) -> str:
        return str(self.element(identity).get_property("textContent"))

    def rows(self, selector: str = ".line") -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(l => !l.hidden)"
            ".map(l => l.querySelector('.text').textContent)"
        )
        found: list[str] = self.window.execute_script(script, selector)
        return found

    def wait(self, probe: Any, what: str) -> Any:
        return WebDriverWait(self.window, TIMEOUT, poll_frequency=0.05).until(
            lambda _: probe(), f"waited in vain for {what}"
        )

    def wait_rows(self, count: int) -> list[str]:
        self.wait(lambda: len(self.rows()) >= count, f"{count} rows")
        return self.rows()

    def wait_text(self, identity: str, text: str) -> None:
        self.wait(lambda: text in self.text(identity), f"{text!r} in {identity}")

    def press(self, key: str) -> None:
        self.window.find_element(By.TAG_NAME, "body").send_keys(key)

    def complaints(self) -> list[str]:
        """What the browser's console holds, but for sockets that were refused on purpose."""
        entries: list[dict[str, str]] = self.window.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries]


@pytest.fixture
def page(chromium: webdriver.Chrome, site: ThreadedSite) -> Iterator[PageUnderTest]:
    page = PageUnderTest(chromium, site)
    yield page
    # The page's sockets end before its server does.
    chromium.get("about:blank")


@pytest.fixture
def owner(site: ThreadedSite) -> Owner:
    return site.site.owner("nightly import")


def finished(site: ThreadedSite, owner: Owner, *pieces: Any, exit_code: int = 0) -> None:
    async def run() -> None:
        await owner.start()
        if pieces:
            await owner.write(*pieces)
        await owner.finish(exit_code)

    site.call(run())


def test_a_run_is_watched_to_its_end(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    site.call(owner.start())
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("status", "running")
    assert page.window.title == "running · nightly import · fastlane"
    assert page.text("task") == "nightly import"
    assert page.element("stop").is_displayed()
    site.call(owner.write((OUT, b"one\n"), (ERR, b"two\n"), (OUT, b"three, ")))
    assert page.wait_rows(3) == ["one", "two", "three, "]
    assert page.rows(".line.stderr") == ["two"]
    site.call(owner.write((OUT, b"and more\nlast")))
    page.wait_rows(4)
    site.call(owner.finish(3))
    page.wait_text("connection", "Ended")
    assert page.rows() == ["one", "two", "three, and more", "last"]
    assert page.text("status") == "failed"
    assert page.text("exit") == "3"
    assert page.element("duration").text
    assert page.window.title == "failed (exit 3) · nightly import · fastlane"
    assert not page.element("stop").is_displayed()
    links = page.window.find_elements(By.CSS_SELECTOR, "a[data-log]")
    base = site.site.url(owner.path.replace(" ", "%20"), "http")
    assert [link.get_attribute("href") for link in links] == [
        f"{base}/{name}/" for name in ("logs", "stdout", "stderr")
    ]
    assert page.complaints() == []


def test_a_log_that_holds_markup_is_text(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    """Regression 30."""
    nasty = b"<script>document.title='owned'</script><img src=x onerror=alert(1)> &amp; \xff\x00\n"
    finished(site, owner, nasty)
    page.open(owner.job_path.replace(" ", "%20") + "/stream")
    page.wait_text("connection", "Ended")
    expected = "<script>document.title='owned'</script><img src=x onerror=alert(1)> &amp; �␀"
    assert page.rows() == [expected]
    assert page.window.find_elements(By.CSS_SELECTOR, "#lines script, #lines img") == []
    assert page.window.title == "done (exit 0) · nightly import · fastlane"
    assert page.complaints() == []


def test_terminal_sequences(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    finished(
        site,
        owner,
        b"\x1b[1;31mred\x1b[0m plain \x1b[38;5;208morange\x1b[39m \x1b[48;2;1;2;3mback\x1b[0m\n",
        b"cut \x1b[3",
        b"2mgreen\nstill green\x1b[m\n",
        b" 10%\r 50%\r",
        b"100%\r",
        b"\nwindows\r\n",
        b"\x1b]0;title\x07\x1b[2K\x1b(Bnothing else\x1b[?25l\n",
        "日本".encode() + b"\n",
    )
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("connection", "Ended")
    assert page.rows() == [
        "red plain orange back",
        "cut green",
        "still green",
        "100%",
        "windows",
        "nothing else",
        "日本",
    ]
    assert [e.text for e in page.window.find_elements(By.CSS_SELECTOR, "#lines .f1.bold")] == [
        "red"
    ]
    green = page.window.find_elements(By.CSS_SELECTOR, "#lines .f2")
    assert [e.text for e in green] == ["green", "still green"]
    orange = page.window.find_element(By.XPATH, "//span[text()='orange']")
    assert orange.value_of_css_property("color") == "rgba(255, 135, 0, 1)"
    assert page.complaints() == []


def test_a_job_that_waits_is_picked_up_when_it_runs(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    start_at = time.time() + 3600
    site.call(owner.submit(schedule=Schedule(start_at=start_at)))
    path = owner.job_path.replace(" ", "%20") + "/stream/"
    page.open(path)
    page.wait_text("status", "scheduled")
    page.wait_text("waiting", "Scheduled for")
    assert page.window.title == "scheduled · nightly import · fastlane"

    async def tick() -> None:
        job = await site.site.storage.jobs.get(owner.task_id, owner.job_id)
        clock = owner.lifecycle._clock
        owner.lifecycle._clock = lambda: start_at + 1
        owner.execution = await owner.lifecycle.run_tick(job)
        owner.lifecycle._clock = clock

    site.call(tick())
    page.wait_text("status", "enqueued")
    site.call(owner.claim())
    page.wait_text("status", "pulling")

    async def run() -> None:
        assert owner.execution is not None
        owner.execution = await owner.lifecycle.started(owner.execution, "run-1")
        await owner.write(b"at last\n")

    site.call(run())
    assert page.wait_rows(1) == ["at last"]
    assert owner.execution is not None
    assert page.text("execution") == owner.execution.id
    site.call(owner.finish(0))
    page.wait_text("connection", "Ended")
    assert page.text("status") == "done"


def test_a_job_is_watched_through_its_retries(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    site.call(owner.start(retries=1, retry_after=4.0))
    first = owner.path.replace(" ", "%20")
    page.open(owner.job_path.replace(" ", "%20") + "/stream/")
    page.wait_text("status", "running")
    site.call(owner.write(b"first\n"))
    page.wait_rows(1)
    site.call(owner.finish(1))
    page.wait_text("waiting", "Attempt 2 of 2 ")
    assert page.element("waiting").is_displayed()
    assert page.rows() == ["first", "Attempt 1 of 2 failed with exit code 1."]
    page.wait(lambda: page.text("waiting").startswith("Attempt 2 of 2 is about"), "its time")
    site.call(owner.start_retry())
    page.wait_text("status", "running")
    site.call(owner.write(b"second\n"))
    page.wait_rows(3)
    assert not page.element("waiting").is_displayed()
    assert owner.execution is not None
    assert page.text("execution") == owner.execution.id
    site.call(owner.finish(0))
    page.wait_text("connection", "Ended; nothing more")
    assert page.text("status") == "done"
    assert page.rows()[0::2] == ["first", "second"]
    assert page.complaints() == []
    # The page of the first execution stays with it, and leads to the second.
    page.open(f"{first}/stream/")
    page.wait_text("connection", "Attempt 2 of 2 follows")
    page.element("connection").find_element(By.TAG_NAME, "a").click()
    page.wait(lambda: page.rows() == ["second"], "the second attempt")


def test_it_says_why_it_waits(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    hosts = site.site.services.hosts
    (record,) = (hosts.record(host) for host in FARM.hosts)
    hosts.take([replace(record, blacklisted=True)])
    site.call(owner.submit())
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("waiting", "localhost")
    assert "In the queue" not in page.text("waiting")


def test_a_schedule_is_stopped_between_two_ticks(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    """The page said "Stopping ..." for ever: nothing was connected that could tell it more."""

    async def tick() -> None:
        await owner.submit(schedule=Schedule(cron="* * * * *"))
        job = await site.site.storage.jobs.get(owner.task_id, owner.job_id)
        owner.execution = await owner.lifecycle.run_tick(job)
        owner.execution = await owner.lifecycle.started(await owner.claim(), "run-1")
        await owner.finish()

    site.call(tick())
    page.open(owner.job_path.replace(" ", "%20") + "/stream/")
    page.wait_text("connection", "Ended")
    page.element("stop").click()
    page.element("ask-stop-yes").click()
    page.wait_text("connection", "Stopped; no more runs are scheduled")
    assert not page.element("stop").is_displayed()
    # And before the first tick.
    site.call(owner.submit(schedule=Schedule(cron="* * * * *")))
    page.open(owner.job_path.replace(" ", "%20") + "/stream/")
    page.wait_text("waiting", "Scheduled for")
    page.element("stop").click()
    page.element("ask-stop-yes").click()
    page.wait_text("connection", "Not scheduled")
    assert not page.element("stop").is_displayed()


def test_a_broken_connection_goes_on_where_it_was(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    site.call(owner.start())
    site.call(owner.write(b"1\n", b"2\n"))
    page.open(owner.job_path.replace(" ", "%20") + "/stream/")
    page.wait_rows(2)

    async def cut() -> None:
        for socket in tuple(site.site.services.sockets._open):
            socket.cut_off()
        await owner.write(b"3\n")

    site.call(cut())
    assert page.wait_rows(3) == ["1", "2", "3"]
    site.call(owner.finish())
    page.wait_text("connection", "Ended")
    assert page.rows() == ["1", "2", "3"]


def test_following_lets_go_when_one_scrolls_up(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    site.call(owner.start())
    site.call(owner.write(b"".join(b"line %d\n" % number for number in range(300))))
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_rows(300)
    script = "const l = document.getElementById('log'); return l.scrollHeight - l.scrollTop"
    script += " - l.clientHeight"
    pressed = "aria-pressed"
    page.wait(lambda: page.window.execute_script(script) < 2, "the end in view")
    page.window.execute_script("document.getElementById('log').scrollTop = 100")
    page.wait(lambda: page.element("follow").get_attribute(pressed) == "false", "following to stop")
    site.call(owner.write(b"new\n"))
    page.wait_rows(301)
    page.wait_text("newest", "1 new line")
    top = page.window.execute_script("return document.getElementById('log').scrollTop")
    assert top == 100
    page.element("newest").click()
    page.wait(lambda: page.window.execute_script(script) < 2, "the end in view")
    assert page.element("follow").get_attribute(pressed) == "true"
    site.call(owner.write(b"newer\n"))
    page.wait_rows(302)
    page.wait(lambda: page.window.execute_script(script) < 2, "the end in view")


def test_filter_wrap_times_and_keys(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    finished(site, owner, b"apple\nBanana\ncherry " + b"x" * 3000 + b"\nbanana split\n")
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("connection", "Ended")
    page.press("/")
    page.element("filter").send_keys("banana")
    assert page.rows() == ["Banana", "banana split"]
    assert page.text("matches") == "2 found"
    page.element("filter").send_keys(Keys.ESCAPE)
    assert len(page.rows()) == 4
    wide = "const l = document.getElementById('log'); return l.scrollWidth > l.clientWidth + 1"
    assert page.window.execute_script(wide) is False
    page.press("w")
    assert page.window.execute_script(wide) is True
    page.press("w")
    times = page.window.find_element(By.CSS_SELECTOR, ".line time")
    assert not times.is_displayed()
    page.press("t")
    assert times.is_displayed()
    page.press("t")


def test_stop_asks_and_stops(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    execution = site.call(owner.start())
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("status", "running")
    page.element("stop").click()
    page.element("ask-stop-no").click()
    assert not page.element("ask-stop").is_displayed()
    page.element("stop").click()
    page.element("ask-stop-yes").click()

    async def stopping() -> bool:
        return (await site.site.storage.executions.get(execution.id)).stop_reason is not None

    page.wait(lambda: site.call(stopping()), "the stop")
    assert page.complaints() == []


def test_a_large_log_keeps_the_last_lines(
    page: PageUnderTest, site: ThreadedSite, owner: Owner
) -> None:
    pieces = [
        b"".join(b"%07d of a long log\n" % number for number in range(start, start + 5000))
        for start in range(0, 200_000, 5000)
    ]
    finished(site, owner, *pieces)
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("connection", "Ended")
    page.wait_text("count", "200,000 lines")
    page.wait(lambda: page.rows()[-1:] == ["0199999 of a long log"], "the last line")
    assert page.rows() == [f"{n:07} of a long log" for n in range(195_000, 200_000)]
    assert "195,000 earlier lines are not shown here" in page.text("dropped")
    page.element("filter").send_keys("0000001 of")
    assert page.text("matches") == "0 found in the last 5,000 of 200,000 lines"
    assert page.window.find_element(By.CSS_SELECTOR, "#dropped a").get_attribute("href") == (
        site.site.url(owner.path.replace(" ", "%20") + "/logs/", "http")
    )


def test_one_very_long_line(page: PageUnderTest, site: ThreadedSite, owner: Owner) -> None:
    finished(site, owner, *["🚚".encode() * 4000 for _ in range(60)], b"\nend\n")
    page.open(owner.path.replace(" ", "%20") + "/stream/")
    page.wait_text("connection", "Ended")
    page.wait(lambda: page.rows()[-1:] == ["end"], "the last line")
    assert "".join(page.rows()) == "🚚" * 240_000 + "end"
    assert page.text("count") == "2 lines"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_every_window(
    page: PageUnderTest, site: ThreadedSite, owner: Owner, width: int, scheme: str
) -> None:
    owner.task_id = "a-task-with-a-rather-long-name-" * 4
    finished(site, owner, b"x" * 500 + b"\n", (ERR, b"oops\n"), exit_code=1)
    cdp = page.window.execute_cdp_cmd
    cdp(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    cdp("Emulation.setEmulatedMedia", {"features": media})
    try:
        page.open(f"{owner.path}/stream/")
        page.wait_text("connection", "Ended")
        size = "return document.documentElement.scrollWidth"
        assert page.window.execute_script(size) <= width
        shown = "return document.getElementById('log').getBoundingClientRect().height"
        assert page.window.execute_script(shown) > 400
        back = page.window.find_element(By.TAG_NAME, "body").value_of_css_property(
            "background-color"
        )
        level = int(back.removeprefix("rgba(").split(",")[0])
        assert (level < 60) is (scheme == "dark")
    finally:
        cdp("Emulation.clearDeviceMetricsOverride", {})
        cdp("Emulation.setEmulatedMedia", {"features": []})
