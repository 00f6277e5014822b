"""Who gets a page, what a page allows, and what its fragments cost."""

from __future__ import annotations

import asyncio
import gzip
import re
from unittest.mock import Mock

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from fastlane.api.negotiation import wants_page
from fastlane.api.rendering import ASSETS, ASSETS_VERSION, SECURITY_POLICY, Templates
from fastlane.api.renders import MAX_FRAGMENTS, Renders
from fastlane.storage import lists
from tests.api.http_site import Site

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
BROWSER = {"Accept": CHROME, "User_Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/143.0"}


def asks(accept: str | None, agent: str | None, path: str = "/tasks/", method: str = "GET") -> bool:
    headers = HTTPHeaders({"Host": "localhost"})
    for name, value in (("Accept", accept), ("User-Agent", agent)):
        if value is not None:
            headers[name] = value
    line = RequestStartLine(method, path, "HTTP/1.1")
    return wants_page(HTTPServerRequest(start_line=line, headers=headers, connection=Mock()))


def test_a_browser_gets_a_page_and_nobody_else() -> None:
    agent = "Mozilla/5.0"
    assert asks(CHROME, agent)
    assert asks("text/html", agent)
    assert asks("application/json;q=0.5, TEXT/HTML ; q=0.6", agent)
    assert not asks(CHROME, "curl/8.1")
    assert not asks(CHROME, None)
    assert not asks("*/*", agent)
    assert not asks(None, agent)
    assert not asks("application/json, text/html;q=0.9", agent)
    assert not asks("application/json, text/html", agent)
    assert not asks("text/html;q=0", agent)
    assert not asks("text/html;q=x", agent)
    assert not asks(CHROME, agent, method="POST")


def test_the_query_decides() -> None:
    assert asks("*/*", "curl/8.1", "/tasks/?as=html")
    assert not asks(CHROME, "Mozilla/5.0", "/tasks/?as=json")
    assert asks(CHROME, "Mozilla/5.0", "/tasks/?as=else")


async def test_an_unknown_form_is_refused(still: Site) -> None:
    of_get = (await still.get("/openapi.json")).json["paths"]
    takers = [
        path
        for path, item in of_get.items()
        for one in item.get("get", {}).get("parameters", ())
        if one["name"] == "as" and one["schema"]["enum"] == ["json", "html"]
    ]
    assert {"/", "/tasks/", "/executions/"} <= {*takers}
    for path in takers:
        assert "text/html" in of_get[path]["get"]["responses"]["200"]["content"]
        if "{" not in path:
            for headers in ({}, BROWSER):
                answer = await still.get(f"{path}?as=AAA", **headers)
                assert answer.status == 400, path
    assert "as is" in (await still.get("/?as=AAA")).problem(400)["detail"]


async def test_the_root_is_a_page_or_an_index(still: Site) -> None:
    page = await still.get("/", **BROWSER)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"] == SECURITY_POLICY
    assert "unsafe" not in SECURITY_POLICY
    assert "form-action 'self'" in SECURITY_POLICY
    index = (await still.get("/")).json
    assert {"path": "/tasks/", "methods": ["GET"], "summary": "All tasks"} in index["routes"]
    for answer in (page, await still.get("/")):
        assert answer.headers["Vary"].startswith("Accept, User-Agent")
    assert (await still.get("/?as=json", **BROWSER)).json == index
    assert (await still.request("HEAD", "/", **BROWSER)).body == b""
    # An unknown parameter is an error of a program, and nothing to a person.
    (await still.get("/?nothing=1")).problem(400)
    assert (await still.get("/?nothing=1", **BROWSER)).status == 200
    assert (await still.get("/?fragment=nothing", **BROWSER)).status == 404


async def test_an_unknown_number_is_not_shown_as_zero(
    still: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await still.submit()
    await still.request("DELETE", f"{created['taskUrl']}?force=true")
    waiting = b"<strong>%s</strong><span>waiting</span>"
    assert waiting % b"0" in (await still.get("/?as=html")).body
    monkeypatch.setattr(lists, "MOST_COUNTED", 0)
    page = (await still.get("/?as=html&fresh")).body
    assert waiting % "\u2013".encode() in page


async def test_an_error_is_a_page_for_a_browser(still: Site) -> None:
    for path, status, words in (
        ("/nowhere/", 404, b"There is nothing here"),
        (f"/tasks/a/jobs/{'0' * 8}-0000-4000-8000-{'0' * 12}/stream/", 404, b'href="/tasks/a/"'),
        ("/tasks/%ff/", 400, b"is not UTF-8"),
    ):
        answer = await still.get(path, **BROWSER)
        assert answer.status == status
        assert answer.headers["Content-Type"].startswith("text/html")
        assert words in answer.body
        assert answer.headers["X-Request-ID"].encode() in answer.body
    (await still.get("/nowhere/")).problem(404)


async def test_markup_in_a_path_is_text_on_the_page_of_an_error(still: Site) -> None:
    answer = await still.get("/%3Cscript%3Ealert(1)%3C/script%3E/%22%3E", **BROWSER)
    assert b"<script>alert" not in answer.body
    assert b'/">/' not in answer.body


async def test_assets_are_cached_for_good_with_their_version(still: Site) -> None:
    page = (await still.get("/", **BROWSER)).body.decode()
    wanted = set(re.findall(r'"(/static/[^"#]+)', page))
    modules: set[str] = set()
    while wanted:
        url = wanted.pop()
        assert url.endswith(f"?v={ASSETS_VERSION}"), url
        answer = await still.get(url, **BROWSER)
        assert answer.status == 200, url
        assert "immutable" in answer.headers["Cache-Control"]
        assert "Vary" not in answer.headers or "Accept," not in answer.headers["Vary"]
        modules.add(url)
        imported = re.findall(rb'from "\.(/[^"]+)"', answer.body)
        wanted |= {f"/static{one.decode()}" for one in imported} - modules
    assert len(modules) > 5
    assert (await still.get("/static/app.js?v=old")).headers["Cache-Control"] == "no-cache"


def test_no_page_sets_a_style_or_names_another_host() -> None:
    from fastlane.api.rendering import TEMPLATES

    sources = TEMPLATES._loader.dict
    for name, source in sources.items():
        assert "style=" not in source, name
        assert not re.search(r'\bon\w+="', source), name
        assert not re.search(r'(?:src|href)="(?:https?:)?//', source), name
    for name, body in ASSETS.items():
        if name.endswith((".js", ".css")):
            assert b"//cdn" not in body
            assert not re.search(rb"(?:import|from|url)[ (\"']+(?:https?:)?//", body), name


def test_a_macro_sees_what_it_is_given_and_nothing_else() -> None:
    templates = Templates(
        {
            "_bold.html": "<b>{{ word }}</b>",
            "page.html": "{% raw bold(word=one) %}{% raw bold(word='<') %}",
        }
    )
    assert templates.render("page.html", {"one": "&"}) == b"<b>&amp;</b><b>&lt;</b>"
    with pytest.raises(NameError):
        templates.render("_bold.html", {})


async def test_a_fragment_is_rendered_once_for_all_who_ask_within_a_short_time() -> None:
    now = 100.0
    renders = Renders(lambda: now)
    made = 0

    async def make() -> bytes:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return b"%d" % made

    assert set(await asyncio.gather(*(renders.get("a", make) for _ in range(50)))) == {b"1"}
    now += 0.7
    assert await renders.get("a", make) == b"1"
    assert await renders.get("b", make) == b"2"
    now += 0.2
    assert await renders.get("a", make) == b"3"
    # What has changed just after a rendering is in the next one, for all who ask for it.
    changed = [asyncio.create_task(renders.get("a", make, after_now=True)) for _ in range(20)]
    assert await renders.get("a", make) == b"3"
    now += 0.8
    assert {await one for one in changed} == {b"4"}


async def test_a_failure_is_not_kept_and_fragments_are_bounded() -> None:
    renders = Renders(lambda: 0.0)

    async def fail() -> bytes:
        raise ValueError

    async def make() -> bytes:
        return b""

    with pytest.raises(ValueError):  # noqa: PT011
        await renders.get("a", fail)
    assert await renders.get("a", make) == b""
    for number in range(2 * MAX_FRAGMENTS):
        await renders.get(number, make)
    assert len(renders._found) <= MAX_FRAGMENTS


def test_assets_are_small() -> None:
    """PAGES.md: own assets, compressed, under 60 kB."""
    assert sum(len(gzip.compress(body)) for body in ASSETS.values()) < 60_000
