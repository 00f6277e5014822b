"""Bad input of any kind: 4xx with a problem that helps, nothing created, never a 5xx."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from fastlane.model import Definition, Schedule
from tests.api.http_site import PAYLOAD, Answer, Site, start_site

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB_ID = "19603668-7241-4c50-802f-7c39dac831e6"

# One fault each: what the payload has beside image and command, where the fault is, and words that
# its message must hold.
FAULTS: tuple[tuple[dict[str, Any], str, tuple[str, ...]], ...] = (
    ({"image": None}, "/image", ("null", "a string")),
    ({"image": 5}, "/image", ("5", "a string")),
    ({"image": ""}, "/image", ('""', "name:tag")),
    ({"image": "BAD NAME"}, "/image", ('"BAD NAME"', "registry:5000/name:tag")),
    ({"image": "a:b:c"}, "/image", ('"a:b:c"',)),
    ({"image": "x" * 5000}, "/image", ("image reference",)),
    ({"image": "nul\0"}, "/image", ("image reference",)),
    ({"command": None}, "/command", ("null", "a string or a list of strings")),
    ({"command": 7}, "/command", ("7", "a string or a list of strings")),
    ({"command": ""}, "/command", ("empty", "at least one word")),
    ({"command": "   "}, "/command", ("empty",)),
    ({"command": 'echo "open'}, "/command", ("close the quotes",)),
    ({"command": []}, "/command", ("at least one string",)),
    ({"command": ["ls", 5]}, "/command", ("list of",)),
    ({"command": ["", "x"]}, "/command", ("name a program",)),
    ({"command": "nul\0"}, "/command", ("NUL", "leave it out")),
    ({"command": ["ls", "\0"]}, "/command", ("NUL",)),
    ({"command": ["x"] * 10_001}, "/command", ("10001", "10000")),
    ({"command": "x" * 200_000}, "/command", ("200000", "131072")),
    ({"envs": []}, "/envs", ("a list", "an object")),
    ({"envs": "A=b"}, "/envs", ("a string", "an object")),
    ({"envs": {"A": 5}}, "/envs/A", ("5", "a string")),
    ({"envs": {"A": None}}, "/envs/A", ("null", "a string")),
    ({"envs": {"": "x"}}, "/envs/", ('""', "environment variable")),
    ({"envs": {"A=B": "x"}}, "/envs/A=B", ("A=B", "environment variable")),
    ({"envs": {"a/b~c=": "x"}}, "/envs/a~1b~0c=", ("environment variable",)),
    ({"envs": {"A\nB": "x"}}, "/envs/A\nB", ("line break",)),
    ({"envs": {"A\rB": "x"}}, "/envs/A\rB", ("line break",)),
    ({"envs": {"A\u2028B": "x"}}, "/envs/A\u2028B", ("line break",)),
    ({"envs": {"A\0": "x"}}, "/envs/A\0", ("control character",)),
    ({"envs": {"A": "nul\0"}}, "/envs/A", ("NUL",)),
    ({"envs": {f"A{n}": "x" for n in range(1001)}}, "/envs", ("1000",)),
    ({"envs": {"A": "x" * 200_000}}, "/envs/A", ("131072",)),
    ({"metadata": []}, "/metadata", ("[]", "an object")),
    ({"metadata": "x"}, "/metadata", ('"x"', "an object")),
    ({"startAt": "soon"}, "/startAt", ('"soon"', "a time")),
    ({"startAt": "1645113692"}, "/startAt", ('"1645113692"', "a time")),
    ({"startAt": True}, "/startAt", ("true", "a number")),
    ({"startAt": -1}, "/startAt", ("-1", "unix seconds")),
    ({"startAt": 1645113692000}, "/startAt", ("1645113692000", "milliseconds")),
    ({"startIn": 300}, "/startIn", ("300", "a string")),
    # Regression 24.
    ({"startIn": "300"}, "/startIn", ('"300"', "2m30s")),
    ({"startIn": "abc"}, "/startIn", ('"abc"', "2m30s")),
    ({"startIn": ""}, "/startIn", ('""', "2m30s")),
    ({"startIn": "-5m"}, "/startIn", ('"-5m"', "2m30s")),
    ({"startIn": "5 parsecs"}, "/startIn", ("parsecs",)),
    ({"startIn": "5s3h"}, "/startIn", ("5s3h",)),
    ({"startIn": "999999999w"}, "/startIn", ("ten years",)),
    ({"startIn": "1" * 500 + "s"}, "/startIn", ("duration",)),
    ({"cron": 5}, "/cron", ("5", "a string")),
    ({"cron": ""}, "/cron", ("cron",)),
    ({"cron": "* * * *"}, "/cron", ("* * * *",)),
    ({"cron": "* * * * * *"}, "/cron", ("cron",)),
    ({"cron": "61 * * * *"}, "/cron", ("61",)),
    ({"cron": "@hourly nonsense"}, "/cron", ("cron",)),
    ({"cron": "0 0 31 2 *"}, "/cron", ("cron",)),
    ({"cron": "* " * 5000}, "/cron", ("cron",)),
    ({"cron": "* * * * *", "timezone": "Mars/Base"}, "/timezone", ("Mars/Base",)),
    ({"timezone": 5}, "/timezone", ("5", "a string")),
    ({"timezone": "../../etc/passwd"}, "/timezone", ("timezone",)),
    ({"overlap": "maybe"}, "/overlap", ('"maybe"', '"allow", "skip" or "queue"')),
    ({"retries": "3"}, "/retries", ('"3"', "a whole number")),
    ({"retries": -1}, "/retries", ("-1", "at least 0")),
    ({"retries": 1.5}, "/retries", ("1.5", "a whole number")),
    ({"retries": True}, "/retries", ("true", "a whole number")),
    ({"retries": None}, "/retries", ("null", "a whole number")),
    ({"retries": 10**6}, "/retries", ("1000000", "at most 10000")),
    ({"backoff": 5}, "/backoff", ("5", "an object")),
    ({"backoff": {"minMs": -1}}, "/backoff/minMs", ("-1", "at least 0")),
    ({"backoff": {"factor": 0.5}}, "/backoff/factor", ("0.5", "at least 1")),
    ({"backoff": {"min": 5}}, "/backoff/min", ('"min"', '"minMs"')),
    ({"timeout": 0}, "/timeout", ("0", "more than 0")),
    ({"timeout": -5}, "/timeout", ("-5", "more than 0")),
    ({"timeout": "30"}, "/timeout", ('"30"', "a duration")),
    ({"timeout": 1801}, "/timeout", ("1801", "1800", "HARD_EXECUTION_TIMEOUT_SECONDS")),
    ({"timeout": "31m"}, "/timeout", ("1860", "HARD_EXECUTION_TIMEOUT_SECONDS")),
    ({"expiration": "never"}, "/expiration", ('"never"', "a duration")),
    ({"expiration": -1}, "/expiration", ("-1", "unix seconds")),
    ({"notify": []}, "/notify", ("[]", "an object")),
    ({"notify": {"fails": "ann@example.org"}}, "/notify/fails", ("ann@", "a list")),
    # Regression 35.
    ({"notify": {"fails": ["nobody"]}}, "/notify/fails/0", ('"nobody"', "ann@example.org")),
    ({"notify": {"fails": ["a@b.c", "a@b\nBcc: x"]}}, "/notify/fails/1", ("email",)),
    ({"notify": {"fail": []}}, "/notify/fail", ('"fail"', '"fails"')),
    ({"notify": {"everyAttempt": "yes"}}, "/notify/everyAttempt", ('"yes"', "true or false")),
    ({"webhooks": {"fails": {}}}, "/webhooks/fails", ("{}", "a list")),
    ({"webhooks": {"fails": ["http://x/"]}}, "/webhooks/fails/0", ("http://x/", "an object")),
    ({"webhooks": {"fails": [{}]}}, "/webhooks/fails/0/url", ("required",)),
    (
        {"webhooks": {"fails": [{"url": "x"}]}},
        "/webhooks/fails/0/url",
        ('"x"', "https://host/path"),
    ),
    ({"webhooks": {"fails": [{"url": "ftp://x/"}]}}, "/webhooks/fails/0/url", ("ftp://x/",)),
    ({"webhooks": {"fails": [{"url": "http://[x/"}]}}, "/webhooks/fails/0/url", ("http://[x/",)),
    ({"webhooks": {"fails": [{"url": "http://x:0/"}]}}, "/webhooks/fails/0/url", (":0/",)),
    (
        {"webhooks": {"fails": [{"url": "http://x/", "uri": 1}]}},
        "/webhooks/fails/0/uri",
        ('"uri"', '"url"'),
    ),
    (
        {"webhooks": {"fails": [{"url": "http://x/", "headers": {"A B": "x"}}]}},
        "/webhooks/fails/0/headers/A B",
        ("A B", "X-Token"),
    ),
    (
        {"webhooks": {"fails": [{"url": "http://x/", "headers": {"A": "x\r\nB: y"}}]}},
        "/webhooks/fails/0/headers/A",
        ("line break",),
    ),
    (
        {"webhooks": {"fails": [{"url": "http://x/", "headers": {"Host": "y"}}]}},
        "/webhooks/fails/0/headers/Host",
        ("Host", "leave it out"),
    ),
    (
        {"webhooks": {"fails": [{"url": "http://x/", "retries": -1}]}},
        "/webhooks/fails/0/retries",
        ("-1", "at least 0"),
    ),
    ({"webhooks": {"start": []}}, "/webhooks/start", ('"start"', '"starts"')),
    ({"resources": {"cpus": 0}}, "/resources/cpus", ("0", "at least 0.01")),
    ({"resources": {"memory": "lots"}}, "/resources/memory", ('"lots"', "512m")),
    ({"resources": {"memory": "1k"}}, "/resources/memory", ("at least 6m",)),
    ({"resources": {"memory": True}}, "/resources/memory", ("true", "512m")),
    ({"resources": {"disk": "1k"}}, "/resources/disk", ("1024", "at least 1m")),
    ({"resources": {"disk": "x"}}, "/resources/disk", ('"x"', "not a size")),
    ({"resources": {"disk": True}}, "/resources/disk", ("true", "not a size")),
    ({"resources": {"pids": 0}}, "/resources/pids", ("0", "at least 1")),
    ({"pullPolicy": "sometimes"}, "/pullPolicy", ("sometimes", '"always"')),
    ({"rerunWhenLost": "yes"}, "/rerunWhenLost", ('"yes"', "true or false")),
    ({"rerunWhenLost": 1}, "/rerunWhenLost", ("1", "true or false")),
    (
        {"additionalDNSEntries": {"db": "nowhere"}},
        "/additionalDNSEntries/db",
        ('"nowhere"', "10.0.0.7"),
    ),
    (
        {"additionalDNSEntries": {"db": "fe80::1%eth0"}},
        "/additionalDNSEntries/db",
        ("fe80::1%eth0", "scope"),
    ),
    (
        {"additionalDNSEntries": {"a b": "10.0.0.1"}},
        "/additionalDNSEntries/a b",
        ("a b", "host name"),
    ),
    ({"startAt": 5, "startIn": "5m"}, "", ("startAt and startIn cannot be used together",)),
    ({"startAt": 5, "cron": "* * * * *"}, "", ("startAt and cron cannot be used together",)),
    ({"startIn": "5m", "cron": "* * * * *"}, "", ("startIn and cron cannot be used together",)),
    ({"comand": "x"}, "/comand", ('"comand"', '"command"')),
    ({"start_in": "5m"}, "/start_in", ('"start_in"', '"startIn"')),
    ({"Image": "x"}, "/Image", ('"Image"', '"image"')),
    ({"": "x"}, "/", ('"" is not a key of the payload.',)),
    ({"x" * 3000: "x"}, f"/{'x' * 3000}", ("is not a key of the payload.",)),
    ({"webhook": {}}, "/webhook", ('Did you mean "webhooks"?',)),
    ({"webhooks": {"fail": []}}, "/webhooks/fail", ('Did you mean "fails"?',)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def still(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One for all: what was refused leaves nothing that the next one could notice."""
    site = await start_site(tmp_path_factory.mktemp("site"), still=True)
    yield site
    await site.close()


def _title(case: object) -> str | None:
    return json.dumps(case)[:60] if isinstance(case, dict) else None


@pytest.mark.parametrize(("keys", "pointer", "words"), FAULTS, ids=_title)
async def test_faulty_key(
    still: Site, keys: dict[str, Any], pointer: str, words: tuple[str, ...]
) -> None:
    """Regressions 24 and 35: refused with the place, the value and the remedy; nothing created."""
    before = await still.counts()
    for answer in (
        await still.post("/tasks/bad/", {**PAYLOAD, **keys}),
        await still.put(f"/tasks/bad/jobs/{JOB_ID}/", {**PAYLOAD, **keys}),
    ):
        problem = answer.problem(400)
        assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
        message = problem["errors"][0]["message"]
        for word in words:
            assert word in message
        assert len(message) < 400
        assert problem["detail"] == "The payload has 1 error."
    assert await still.counts() == before
    (await still.get("/tasks/bad/")).problem(404)


async def test_only_similar_keys_are_suggested_and_each_error_is_printed_once(still: Site) -> None:
    answer = await still.post("/tasks/bad", {**PAYLOAD, "volumes": {}, "retry": 1})
    assert [fault["message"] for fault in answer.problem(400)["errors"]] == [
        '"volumes" is not a key of the payload.',
        '"retry" is not a key of the payload. Did you mean "retries"?',
    ]
    assert answer.body.count(b"volumes") == 2, "in its pointer and its message"


async def test_all_faults_at_once(still: Site) -> None:
    payload = {
        "comand": "true",
        "retries": "3",
        "startIn": "5",
        "startAt": 5,
        "notify": {"fails": ["x", "y"], "succeed": []},
        "webhooks": {"starts": [{"headers": {"A B": "x", "C": "\n"}}]},
        "envs": {"A=": "x", "": "x", "B": 5},
    }
    problem = (await still.post("/tasks/bad", payload)).problem(400)
    pointers = [fault["pointer"] for fault in problem["errors"]]
    assert sorted(pointers) == sorted(
        [
            "/image",
            "/command",
            "/comand",
            "/retries",
            "/startIn",
            "/notify/fails/0",
            "/notify/fails/1",
            "/notify/succeed",
            "/webhooks/starts/0/url",
            "/webhooks/starts/0/headers/A B",
            "/webhooks/starts/0/headers/C",
            "/envs/B",
            "",
        ]
    )
    assert problem["detail"] == "The payload has 13 errors."


async def test_few_of_many_unknown_keys_have_a_suggestion(still: Site) -> None:
    answer = await still.post("/tasks/bad", {**PAYLOAD, **{f"retries{n}": 1 for n in range(9000)}})
    errors = answer.problem(400)["errors"]
    assert len(errors) == 101
    assert sum("Did you mean" in fault["message"] for fault in errors) == 10
    assert errors[-1]["message"] == "8900 more errors."


async def test_large_metadata_is_accepted(still: Site) -> None:
    metadata = {"items": list(range(100_000)), **{f"k{n}": [n] for n in range(9_000)}}
    created = (await still.post("/tasks/large", {**PAYLOAD, "metadata": metadata})).json
    job = (await still.get(created["jobUrl"])).json["job"]
    assert job["metadata"]["custom"] == metadata


async def test_faults_of_one_object_stand_apart(still: Site) -> None:
    answer = await still.post("/tasks/bad", {**PAYLOAD, "envs": {"A=": "x", "": "x", "B": "\0"}})
    problem = answer.problem(400)
    assert {fault["pointer"] for fault in problem["errors"]} == {"/envs/A=", "/envs/", "/envs/B"}


async def test_many_faults_are_bounded(still: Site) -> None:
    """Regression 40: a body full of faults costs little and is answered in little."""
    answer = await still.post("/tasks/bad", {f"key{n}": 1 for n in range(9_000)})
    problem = answer.problem(400)
    assert len(problem["errors"]) == 101
    assert problem["errors"][-1]["message"] == "8902 more errors."


async def test_faulty_secrets_are_not_repeated(still: Site) -> None:
    """Regression 37: what was sent under a secret's name comes back in no message."""
    payloads: list[dict[str, Any]] = [
        {"envs": {"DB_PASSWORD": ["hunter2"]}},
        {"envs": {"DB_PASSWORD": "hunter2\0"}},
        {"envs": {"NESTED": {"PASSWORD": "hunter2"}}},
        {"envs": "DB_PASSWORD=hunter2"},
        {"envs": ["DB_PASSWORD=hunter2"]},
        {"webhooks": {"fails": [{"url": "http://ann:hunter2@host/"}]}},
        {"webhooks": {"fails": [{"url": "ftp://ann:hunter2@host/"}]}},
        {"webhooks": {"fails": [{"url": "http://x/", "headers": {"Authorization": ["hunter2"]}}]}},
        {"webhooks": {"fails": [{"url": "http://x/", "headers": {"Authorization": "hunter2\n"}}]}},
        {"password": "hunter2"},
        {"token": {"a": "hunter2"}},
    ]
    for keys in payloads:
        answer = await still.post("/tasks/bad", {**PAYLOAD, **keys})
        assert answer.problem(400)["errors"]
        assert b"hunter2" not in answer.body, keys


DEEP = b'{"image": "x", "command": "x", "metadata": ' + b'{"a":' * 51 + b"1" + b"}" * 51 + b"}"
NAME = b'{"image": "x", "command": "x", "metadata": {"a": %s}}'
BODIES: tuple[tuple[str, bytes, str], ...] = (
    ("empty", b"", "The request body is empty; send a JSON object"),
    ("blank", b" \n\t ", "The request body is empty; send a JSON object"),
    ("not JSON", b"image=x&command=y", "not JSON"),
    ("half", b'{"image": "x"', "not JSON"),
    ("two", b"{} {}", "not JSON"),
    ("trailing comma", b'{"image": "x",}', "not JSON"),
    ("single quotes", b"{'image': 'x'}", "not JSON"),
    ("null", b"null", "null; send a JSON object"),
    ("true", b"true", "a boolean; send a JSON object"),
    ("number", b"5", "a number; send a JSON object"),
    ("string", b'"x"', "a string; send a JSON object"),
    ("list", b"[]", "a list; send a JSON object"),
    ("key twice", b'{"image": "x", "image": "y", "command": "z"}', 'Duplicate key "image".'),
    ("inner key twice", NAME % b'{"b": 1, "b": 2}', 'Duplicate key "b".'),
    ("NaN", NAME % b"NaN", "NaN is not a JSON number"),
    ("Infinity", NAME % b"-Infinity", "-Infinity is not a JSON number"),
    ("1e999", NAME % b"1e999", "1e999 is too large"),
    ("10**5000", NAME % (b"1" + b"0" * 5000), "too large"),
    ("2**63", NAME % b"9223372036854775808", "9223372036854775808 is too large"),
    ("-2**63-1", NAME % b"-9223372036854775809", "too large"),
    ("deep", DEEP, "nested more than 50 levels deep"),
    ("very deep", b'{"a":' * 100_000, "nested more than 50 levels deep"),
    ("very deep list", b"[" * 500_000, "nested more than 50 levels deep"),
    ("many keys", json.dumps({**PAYLOAD, **{f"k{n}": 1 for n in range(80_000)}}).encode(), "keys"),
    ("many inner keys", NAME % json.dumps(dict.fromkeys(map(str, range(10_000)))).encode(), "keys"),
    ("many items", json.dumps({**PAYLOAD, "notify": {"fails": [1] * 10_001}}).encode(), "items"),
    ("lone surrogate", NAME % b'"\\ud800"', "surrogate"),
    ("lone surrogate key", b'{"\\udfff": 1}', "surrogate"),
    ("not UTF-8", NAME % b'"\xff"', "byte 50"),
    ("UTF-16", json.dumps(PAYLOAD).encode("utf-16"), "not UTF-8"),
    ("BOM", b"\xef\xbb\xbf" + json.dumps(PAYLOAD).encode(), "byte order mark"),
    ("control character", NAME % b'"\x01"', "not JSON"),
    ("NUL", b"\0", "not JSON"),
    ("gzip without saying so", gzip.compress(json.dumps(PAYLOAD).encode()), "not UTF-8"),
)
TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "application/json", "nonsense")


@pytest.mark.parametrize(("body", "words"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_faulty_body(still: Site, body: bytes, words: str) -> None:
    before = await still.counts()
    answers = [
        await still.post("/tasks/bad", body, Content_Type=content_type) for content_type in TYPES
    ]
    answers.append(await still.put(f"/tasks/bad/jobs/{JOB_ID}", body))
    for answer in answers:
        problem = answer.problem(400)
        assert words in problem["detail"]
        assert len(problem["detail"]) < 300
    assert await still.counts() == before


async def test_compressed_body(still: Site) -> None:
    """Regression 40: a gzip bomb is not unpacked."""
    body = gzip.compress(b" " * 100_000_000)
    before = await still.counts()
    for encoding in ("gzip", "deflate", "br", "x-nonsense"):
        answer = await still.post("/tasks/bad", body, Content_Encoding=encoding)
        assert encoding in answer.problem(415)["detail"]
        assert answer.headers["Accept-Encoding"] == "identity"
    assert await still.counts() == before
    assert (await still.post("/tasks/good", PAYLOAD, Content_Encoding="identity")).json


BAD_TASK_IDS: tuple[tuple[str, str], ...] = (
    ("a" * 256, "255"),
    ("a" * 300, "255"),
    ("%C3%A9" * 256, "255"),
    ("a%2Fb", "slash"),
    ("%2F", "slash"),
    ("a%2fb", "slash"),
    ("%00", "control character"),
    ("a%00b", "control character"),
    ("a%0Ab", "control character"),
    ("a%7F", "control character"),
    ("a%C2%85b", "control character"),
    ("%20", "space"),
    ("%20a", "space"),
    ("a%20", "space"),
    ("a%C2%A0", "space"),
    (".", "a step in a path"),
    ("..", "a step in a path"),
    ("a%E2%80%8Bb", "U+200B (ZERO WIDTH SPACE)"),
    ("%EF%BB%BFa", "U+FEFF"),
    ("a%C2%AD", "U+00AD (SOFT HYPHEN)"),
    ("a%E2%80%AEb", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    ("a%E2%81%A6b", "U+2066 (LEFT-TO-RIGHT ISOLATE)"),
    ("a%E2%80%A8b", "U+2028 (LINE SEPARATOR)"),
    ("a%E3%85%A4b", "U+3164 (HANGUL FILLER)"),
    ("a%EF%B8%8F", "U+FE0F (VARIATION SELECTOR-16)"),
    ("a%E2%A0%80b", "U+2800 (BRAILLE PATTERN BLANK)"),
    # Decomposed, as some systems name files.
    ("cafe%CC%81", 'write "caf%C3%A9"'),
    ("%E2%84%AB", 'write "%C3%85"'),
    ("%FF", "UTF-8"),
    ("a%C3", "UTF-8"),
    ("%ED%A0%80", "UTF-8"),
)


@pytest.mark.parametrize(("task_id", "words"), BAD_TASK_IDS)
async def test_bad_task_id(still: Site, task_id: str, words: str) -> None:
    before = await still.counts()
    for slash in ("", "/"):
        answer = await still.post(f"/tasks/{task_id}{slash}", PAYLOAD)
        assert words in answer.problem(400)["detail"]
    answer = await still.put(f"/tasks/{task_id}/jobs/{JOB_ID}/", PAYLOAD)
    assert words in answer.problem(400)["detail"]
    wanted = 400 if "UTF-8" in words else 404
    (await still.get(f"/tasks/{task_id}/")).problem(wanted)
    (await still.get(f"/tasks/{task_id}/jobs/{JOB_ID}/")).problem(wanted)
    (await still.post(f"/tasks/{task_id}/jobs/{JOB_ID}/stop/")).problem(wanted)
    assert await still.counts() == before


@pytest.mark.parametrize("task_id", ["..", "a\u200bb", "cafe\u0301"])
async def test_a_task_that_an_earlier_release_accepted_stays_reachable(
    still: Site, task_id: str
) -> None:
    submitted = await still.server.lifecycle.submit(
        task_id=task_id,
        job_id=None,
        definition=Definition.parse("busy:latest", "true"),
        schedule=Schedule(),
    )
    path = f"/tasks/{quote(task_id)}"
    assert (await still.get(f"{path}/")).json["taskId"] == task_id
    created = (await still.post(path, PAYLOAD)).json
    assert created["taskId"] == task_id
    assert (await still.post(f"{path}/jobs/{submitted.job.id}/stop/")).json["taskId"] == task_id


GOOD_TASK_IDS = (
    "a",
    "a" * 255,
    "%C3%A9" * 255,
    "a%20b",
    "a+b",
    "a%3Fb%23c%25",
    "%E2%98%83",
    "test.task-1_x",
    "a;b=c,d&e",
    "%22%3Cscript%3E",
    "a%5Cb",
    "a%25FFb",
    "jobs",
    "%F0%9F%90%B3",
    # Right-to-left letters are letters.
    "%D7%A9%D7%9C%D7%95%D7%9D",
    "...",
    ".a",
)


@pytest.mark.parametrize("task_id", GOOD_TASK_IDS)
async def test_good_task_id(still: Site, task_id: str) -> None:
    """Any other name works, and the URLs in the answers lead back to it."""
    created = (await still.post(f"/tasks/{task_id}", PAYLOAD)).json
    task = (await still.get(created["taskUrl"])).json
    assert task["taskId"] == created["taskId"]
    assert (await still.get(created["jobUrl"])).json["job"]["taskId"] == created["taskId"]
    assert (await still.get(created["executionUrl"])).json["task"]["id"] == created["taskId"]
    assert (await still.get(f"/tasks/{task_id}/")).json == task
    assert (await still.post(f"{created['jobUrl']}stop/")).json["taskId"] == created["taskId"]


async def test_task_id_as_it_is_typed(still: Site) -> None:
    """curl sends the bytes of a name that was not encoded."""
    typed = (await still.post("/tasks/été ☃".replace(" ", "%20"), PAYLOAD)).json
    assert typed["taskId"] == "été ☃"
    assert typed["taskUrl"].endswith("/tasks/%C3%A9t%C3%A9%20%E2%98%83/")
    found = await still.raw(b"GET /tasks/\xff HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400 ")


BAD_JOB_IDS = (
    "x" * 300,
    "c25194b6-e630-11f1-9503-02fc00000001",
    "05b16a01-46c6-56dd-bd6e-c6dfb4a1427a",
    "00000000-0000-0000-0000-000000000000",
    JOB_ID.replace("-", ""),
    f"%7B{JOB_ID}%7D",
    f"urn:uuid:{JOB_ID}",
    f"{JOB_ID}%00",
    f"{JOB_ID}%20",
    "%EF%BC%91" + JOB_ID[1:],
    # The variant of another layout (RFC 9562, section 4.1).
    "19603668-7241-4c50-c02f-7c39dac831e6",
)


@pytest.mark.parametrize("job_id", BAD_JOB_IDS)
async def test_bad_job_id(still: Site, job_id: str) -> None:
    """A job id that is not a UUID4 is 400 on PUT; on all else it is not there."""
    before = await still.counts()
    answer = await still.put(f"/tasks/bad/jobs/{job_id}", PAYLOAD)
    assert "UUID4" in answer.problem(400)["detail"]
    (await still.get(f"/tasks/bad/jobs/{job_id}")).problem(404)
    for action in ("stop", "retry"):
        (await still.post(f"/tasks/bad/jobs/{job_id}/{action}")).problem(404)
    assert await still.counts() == before


PAGES = ("0", "-1", "1.5", "x", "", "%20", "%D9%A1", "1e3", "1" * 30, "0x1", "1%2B")
QUERIES = (
    *(f"page={value}" for value in PAGES),
    *(f"perPage={value}" for value in (*PAGES, "101")),
    "page=%FF",
    "page=1&page=0",
    *(f"after={value}" for value in ("x", "-1", "1.2.3.4", "9" * 40, "%D9%A1", "%FF")),
)


@pytest.mark.parametrize("query", QUERIES)
async def test_bad_page(still: Site, query: str) -> None:
    job = await still.submit()
    for path in ("/tasks/", "/search/", job["taskUrl"], job["jobUrl"]):
        extra = "&query=tests" if "search" in path else ""
        problem = (await still.get(f"{path}?{query}{extra}")).problem(400)
        assert any(name in problem["detail"] for name in ("page", "perPage", "after", "cursor"))


@pytest.mark.parametrize(
    "tail", ["x", "", "-1", "1.5", "1000001", "9" * 40, "%D9%A1", "%FF", "%00"]
)
async def test_bad_tail(still: Site, tail: str) -> None:
    job = await still.submit()
    for base in (job["jobUrl"], job["executionUrl"]):
        for name in ("logs", "stdout", "stderr"):
            problem = (await still.get(f"{base}{name}/?tail={tail}")).problem(400)
            assert "tail" in problem["detail"]


async def test_bad_search(tmp_path: Path) -> None:
    site = await start_site(tmp_path, still=True)
    try:
        assert "1001" in (await site.get(f"/search/?query={'x' * 1001}")).problem(400)["detail"]
        (await site.get("/search/?query=%FF")).problem(400)
        for query in ("", "%00", '"', "'", "*", "a*", "NEAR(a b)", "%25", "a AND b", "-", "^a"):
            page = (await site.get(f"/search/?query={query.replace(' ', '%20')}")).json
            assert page["items"] == []
        assert (await site.get("/search/?query=a:b")).json["items"] == []
    finally:
        await site.close()


NOT_THERE = (
    "/nothing",
    "/tasks//",
    "//tasks/",
    "/tasks/a/b",
    "/tasks/a/jobs",
    f"/tasks/a/jobs/{JOB_ID}/nothing",
    f"/tasks/a/jobs/{JOB_ID}/executions",
    f"/task/a/jobs/{JOB_ID}",
    "/tasks/none",
    f"/tasks/none/jobs/{JOB_ID}",
    f"/tasks/none/jobs/{JOB_ID}/logs",
    f"/tasks/none/jobs/{JOB_ID}/executions/{JOB_ID}",
    f"/tasks/none/jobs/{JOB_ID}/executions/{JOB_ID}/stdout",
    "/static/nothing",
    "/static/..%2F..%2Fsetup.cfg",
    "/favicon.ico",
    "/%FF",
    "/%00",
    "/tasks/../etc/passwd",
)


@pytest.mark.parametrize("path", NOT_THERE)
async def test_not_there(still: Site, path: str) -> None:
    (await still.get(path)).problem(404)
    assert (await still.request("HEAD", path)).status == 404


async def test_what_is_not_there_is_named_in_a_sentence(still: Site) -> None:
    problem = (await still.get("/tasks/nobody's/")).problem(404)
    assert problem["detail"] == 'There is no task "nobody\'s".'
    cursor = (await still.get("/tasks/?after=zzz")).problem(400)
    assert cursor["detail"] == '"zzz" is not a cursor of this listing.'
    path = f"/{'x' * 200}/"
    # Cut, and still between its quotation marks.
    assert (await still.get(path)).problem(404)["detail"].endswith('x…".')


async def test_of_another_task_or_job(still: Site) -> None:
    """A job is found in its own task only, an execution in its own job only."""
    one, other = await still.submit("one"), await still.submit("other")
    wrong_job = f"/tasks/other/jobs/{one['jobId']}"
    wrong_execution = f"/tasks/other/jobs/{other['jobId']}/executions/{one['executionId']}"
    for path in (wrong_job, wrong_execution):
        for suffix in ("", "/logs", "/stdout", "/stderr", "/stream"):
            (await still.get(path + suffix)).problem(404)
    before = await still.counts()
    for path in (wrong_job, wrong_execution):
        (await still.post(f"{path}/stop")).problem(404)
    (await still.post(f"{wrong_job}/retry")).problem(404)
    problem = (await still.put(wrong_job, PAYLOAD)).problem(400)
    assert "another task" in problem["detail"]
    assert (await still.execution(one))["status"] == "enqueued"
    assert await still.counts() == before


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_bad_idempotency_key(still: Site, key: str) -> None:
    before = await still.counts()
    problem = (await still.post("/tasks/a", PAYLOAD, Idempotency_Key=key)).problem(400)
    assert f"{len(key)} characters" in problem["detail"]
    assert await still.counts() == before


async def test_task_that_no_farm_takes(tmp_path: Path) -> None:
    """Regression 41: also with a pattern that would backtrack without end."""
    farms = [{"match": "^only-", "hosts": ["a:1"]}, {"match": "^(a+)+$", "hosts": ["b:1"]}]
    site = await start_site(tmp_path, still=True, docker_hosts=json.dumps(farms))
    try:
        before = await site.counts()
        for task_id in ("other", "a" * 254 + "b"):
            problem = (await site.post(f"/tasks/{task_id}", PAYLOAD)).problem(400)
            assert "No farm matches task" in problem["detail"]
            (await site.put(f"/tasks/{task_id}/jobs/{JOB_ID}", PAYLOAD)).problem(400)
        assert await site.counts() == before
        for task_id in ("only-this", "aaa"):
            assert (await site.post(f"/tasks/{task_id}", PAYLOAD)).status == 200
    finally:
        await site.close()


def assert_refused(answer: bytes) -> None:
    """A raw answer is a 4xx, with or without a body, or the connection was closed."""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer


MALFORMED = (
    b"GARBAGE\r\n\r\n",
    b"\r\n\r\n\r\n\r\n",
    b"\x00\x01\x02\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /tasks/ HTTP/9.9\r\nHost: [::1]\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\nHost: b\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: [abc\r\nConnection: close\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: a/../b\r\nConnection: close\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [abc\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\nNo colon\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\n: empty\r\n\r\n",
    b"GET /tasks/ HTTP/1.1\r\nHost: [::1]\r\nA: \x00\r\n\r\n",
    b"GET /t\x00asks/ HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: -5\r\n\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: x\r\n\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5, 6\r\n\r\n{}",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffffff\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\n",
    b"POST /tasks/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 500\r\n\r\n{",
    b"GET /tasks/a/jobs/b/ws HTTP/1.1\r\nHost: [::1]\r\nUpgrade: websocket\r\n"
    b"Connection: close\r\n\r\n",
)


@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_malformed_request(still: Site, request_bytes: bytes) -> None:
    """Whatever comes over the wire: refused, nothing created, and the next one is served."""
    before = await still.counts()
    assert_refused(await still.raw(request_bytes, end=True))
    assert await still.counts() == before
    assert (await still.get("/healthcheck/")).status == 200


async def test_messages_can_be_read(still: Site) -> None:
    """Each message is a sentence of printable text, in one line."""
    for keys, _, _ in FAULTS:
        answer: Answer = await still.post("/tasks/bad", {**PAYLOAD, **keys})
        for fault in answer.problem(400)["errors"]:
            assert fault["message"].isprintable(), fault
