"""Payloads of every kind of wrong: none is a 5xx, and what is refused has created nothing.

The generator is seeded, so that every run sends the same and a failure names the one to repeat.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any
from urllib.parse import quote

from fastlane.api.problems import Problem
from fastlane.api.schemas import build
from fastlane.api.schemas.payload import JobPayload, read_payload
from fastlane.api.urls import Urls
from fastlane.bus.local import Bus
from fastlane.config import Config
from fastlane.encoding import to_json
from fastlane.lifecycle import Lifecycle
from fastlane.model import Backoff, Execution, Farm, Job
from fastlane.storage.base import IdempotencyKey, Submitted
from fastlane.storage.codec import definition_from, definition_text
from tests.api.conftest import MakeSite
from tests.api.contract import Contract, validate

# Bounds the time; together with those over HTTP more than the 20,000 that were asked for.
PAYLOADS = 20_000
PAYLOADS_OVER_HTTP = 1_500
# How many requests are under way at once.
CONCURRENCY = 8

NOW = 1_700_000_000.0
WORDS = ("password", "key", "secret", "token")

VALID: dict[str, list[Any]] = {
    "image": [
        "busy",
        "busy:latest",
        "registry:5000/a/b:1.0",
        "a@sha256:" + "0" * 64,
        "localhost/x_y--z",
    ],
    "command": ["ls -lah", ["sh", "-c", "echo 'a'; exit 1"], "echo 'ä ö' \"x\"", ["a", ""]],
    "envs": [{}, {"A": "b"}, {"API_KEY": "x", "ÄÖ": "💥"}],
    "metadata": [{}, {"a": [1, 2.5, None, {"b": False}]}, {"": ""}],
    "startAt": [0, 1, NOW + 60, 99_999_999_999, 1.5, None],
    "startIn": ["10s", "2m30s", "4h30m25s", "240h", "0s", "1w2d", None],
    "cron": ["* * * * *", "*/5 0-6,12 1,15 jan-mar mon", "0 0 29 2 *", "59 23 31 12 7", None],
    "timezone": ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"],
    "overlap": ["allow", "skip", "queue"],
    "retries": [0, 1, 10_000],
    "backoff": [{}, {"minMs": 0, "factor": 1, "maxMs": 0}, {"minMs": 1.5, "factor": 100}],
    "timeout": [0.001, 1, 1800, 1e9, None],
    "expiration": [0, NOW + 3600, None],
    "notify": [{}, {"fails": ["ann@example.org"], "everyAttempt": True}],
    "webhooks": [
        {},
        {"starts": [{"url": "https://example.org/"}]},
        {"finishes": [{"url": "http://[::1]:80/x?y", "headers": {"X-A": "b"}, "retries": 3}]},
    ],
    "resources": [{}, {"cpus": 0.5, "memory": "512m", "pids": 100}, {"memory": 6 * 1024**2}],
    "pullPolicy": ["always", "missing", "never", None],
    "rerunWhenLost": [True, False],
    "additionalDNSEntries": [{}, {"db": "10.0.0.7", "v6.x": "fe80::1"}],
}
"""Values that are taken, one by one; together some exclude each other."""

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, -0.0, 0.1, 1e308, -1e308, 5e-324, 2**31, 2**53, 2**63 - 1),
    *(-(2**63), 2**64, 10**40, 1e11, 253_402_300_800, float("1e999"), float("nan")),
    *("", " ", "\0", "a\0b", "\n", "'", '"', "\\", "\ud800", "\U0010ffff", "\u202e", "ﬀ", "İ", "ß"),
    *("null", "true", "3", "-1", "1e3", "0x10", "١٢", "300", "abc", "10 s", "1s1s", "-5s", "1y"),
    *("9" * 400, "a" * 5000, "🎉" * 300, "%s%n", "../../etc/passwd", "$(id)", "{{7*7}}", "<b>"),
    *("a:b:c", "a@b", "UPPER/Case", "host:99999/a", "a@sha256:zz", ":latest", "/a", "a//b", "a:"),
    *("* * * *", "* * * * * *", "60 * * * *", "*/0 * * * *", "0 0 30 2 *", "@daily", "L * * * *"),
    *("5-1 * * * *", "1,,2 * * * *", "* * * * mon#1", "Nowhere/City", "../UTC", "/etc/localtime"),
    *("a@b@c", "ann@", "ftp://x", "http://", "http://u:p@h/", "http://h:0/", "http://h:99999/"),
    *("http://[::1", "http://a b/", "//h/", "javascript:1", "5m", "512x", "1e9g", "256.1.1.1"),
    *([], [[]], {}, [None], [""], ["a", 1], {"a": None}, {"": ""}, {"a": {"b": {"c": []}}}),
    *([{"url": 1}], {"url": "x"}, {"minMs": -1}, {"factor": 0.5}, {"cpus": 0}, {"pids": True}),
    *({"fails": "ann@example.org"}, {"starts": [{}]}, {"starts": [{"url": "http://h/", "x": 1}]}),
]
"""Values that hurt somewhere."""

KEYS = [*VALID, "Image", "startat", "start_in", "env", "retry", "__proto__", "", "\0", "ä", "a/b~c"]


class Payloads:
    """An endless source of bodies."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def body(self) -> bytes:
        """The next one."""
        kind = self._random.random()
        if kind < 0.005:
            opening = self._random.choice((b"[", b'{"a":', b'{"image":"a","metadata":{"a":'))
            return opening * self._random.choice((100, 1000, 20_000))
        if kind < 0.04:
            return self._random.randbytes(self._random.randrange(200))
        if kind < 0.10:
            return self._dumped(self._junk(0))
        text = self._dumped(self._payload())
        if kind < 0.25:
            return self._broken(text)
        return text

    def _payload(self) -> dict[str, Any]:
        choose = self._random.choice
        found = {key: choose(VALID[key]) for key in ("image", "command")}
        for key in self._random.sample(list(VALID), self._random.randrange(6)):
            found[key] = choose(VALID[key])
        for _ in range(self._random.choice((0, 0, 0, 1, 1, 2, 5))):
            self._mutate(found)
        return found

    def _mutate(self, payload: dict[str, Any]) -> None:
        key = self._random.choice(KEYS)
        match self._random.randrange(5):
            case 0:
                payload.pop(key, None)
            case 1:
                payload[key] = self._junk(0)
            case 2:
                inner = payload.get(key)
                if isinstance(inner, dict):
                    name = self._random.choice([*inner, *KEYS, "url", "headers", "minMs", "fails"])
                    payload[key] = {**inner, name: self._junk(1)}
                elif isinstance(inner, list):
                    payload[key] = [*inner, self._junk(1)]
                else:
                    payload[key] = {self._random.choice(KEYS): self._junk(1)}
            case 3:
                inner = payload.get(key)
                if isinstance(inner, str) and inner:
                    at = self._random.randrange(len(inner))
                    payload[key] = inner[:at] + chr(self._random.randrange(1, 300)) + inner[at:]
                elif isinstance(inner, int | float):
                    payload[key] = inner * self._random.choice((-1, 10, 1e6, 1e-6))
            case 4:
                payload[key] = self._random.choice(HOSTILE)

    def _junk(self, depth: int) -> Any:
        kind = self._random.random()
        if kind < 0.6 or depth > 3:
            return self._random.choice(HOSTILE)
        if kind < 0.7:
            return "".join(
                chr(self._random.randrange(0x10FFFF)) for _ in range(self._random.randrange(20))
            )
        if kind < 0.75:
            nested: Any = 0
            for _ in range(self._random.choice((3, 48, 49, 50, 51, 200))):
                nested = [nested] if self._random.random() < 0.5 else {"a": nested}
            return nested
        count = self._random.randrange(4)
        if kind < 0.87:
            return [self._junk(depth + 1) for _ in range(count)]
        return {str(self._random.choice(KEYS)): self._junk(depth + 1) for _ in range(count)}

    def _dumped(self, value: Any) -> bytes:
        # NaN and Infinity are written as Python does, which is not JSON, and that is the point.
        text = json.dumps(value, ensure_ascii=self._random.random() < 0.5)
        encoding = "utf-8" if self._random.random() < 0.98 else "utf-16"
        return text.encode(encoding, "surrogatepass")

    def _broken(self, text: bytes) -> bytes:
        at = self._random.randrange(len(text) + 1)
        match self._random.randrange(6):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + self._random.randbytes(self._random.randrange(1, 5)) + text[at:]
            case 2:
                return text + text
            case 3:
                # The same keys twice.
                return text[:-1] + b", " + text[1:]
            case 4:
                return b"\xef\xbb\xbf" + text
        changed = bytearray(text)
        for _ in range(3):
            changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed)


class MemoryOfSubmits:
    """Keeps what is submitted, and can do nothing else."""

    name = "memory"

    def __init__(self) -> None:
        self.stored: list[Job] = []

    @property
    def jobs(self) -> MemoryOfSubmits:
        return self

    async def submit(
        self,
        job: Job,
        execution: Execution | None,
        *,
        replace: bool = False,
        idempotency: IdempotencyKey | None = None,
    ) -> Submitted:
        self.stored.append(job)
        return Submitted(job, execution)


async def submitted(lifecycle: Lifecycle, payload: JobPayload) -> Submitted:
    return await lifecycle.submit(
        task_id="fuzz",
        job_id=None,
        definition=payload.definition(Backoff(1000, 2, 300_000), 3600, NOW),
        schedule=payload.schedule(NOW),
    )


async def test_twenty_thousand_payloads() -> None:
    storage = MemoryOfSubmits()
    lifecycle = Lifecycle(
        storage,  # type: ignore[arg-type]
        Bus(),
        clock=lambda: NOW,
        farms=[Farm("default", ("h",), 1)],
        instance="fuzz",
    )
    urls, config = Urls("http://localhost"), Config()
    payloads = Payloads(seed=2019)
    accepted = refused = 0
    for number in range(PAYLOADS):
        body = payloads.body()
        payload = read(number, body)
        if isinstance(payload, Problem):
            assert payload.status == 400, (number, body, payload)
            answer = sent(build.problem_details(payload, "id"))
            if number % 20 == 0:
                reference = {"$ref": "#/components/schemas/PayloadProblem"}
                validate(answer, reference, f"{number}: {body!r}")
            refused += 1
        else:
            try:
                done = await submitted(lifecycle, payload)
                # What will be done with it later on must not fail there for the first time.
                definition = done.job.definition
                assert definition.command.argv
                assert definition.effective_pull_policy
                assert definition_from(definition_text(definition)) == definition
                sent(build.submitted(done.job, done.execution, urls))
                details = sent(build.job_details(done.job, [], None, config, urls))
                if number % 20 == 0:
                    validate(details, {"$ref": "#/components/schemas/Job"}, f"{number}: {body!r}")
            except Exception as error:
                raise AssertionError(f"payload {number}: {body!r}") from error
            accepted += 1
        assert len(storage.stored) == accepted
    # Neither way is left untried.
    assert min(accepted, refused) > PAYLOADS / 5, (accepted, refused)


def read(number: int, body: bytes) -> JobPayload | Problem:
    try:
        return read_payload(body)
    except Problem as problem:
        return problem
    except Exception as error:
        raise AssertionError(f"payload {number}: {body!r}") from error


def sent(answer: Any) -> Any:
    """*answer* as a client reads it.

    :raises Exception: it cannot be sent as JSON.
    """
    return json.loads(to_json(answer).encode("utf-8"))


async def test_over_http(make_site: MakeSite) -> None:
    """The same kinds of bodies with paths, queries and keys of the same sort."""
    site = await make_site(still=True)
    contract = Contract()
    payloads, chance = Payloads(seed=7), random.Random(7)
    names = ["fuzz", "a b", "ä", "%", "..", " x", "a\nb", "x" * 255, "x" * 256, "🎉", "\0", "a/b"]
    created: set[str] = set()
    tasks: set[str] = set()

    async def send(number: int) -> None:
        name = chance.choice(names)
        path, method = f"/tasks/{quote(name, safe='')}/", "POST"
        headers = {}
        kind = chance.random()
        if kind < 0.2:
            method = "PUT"
            job_id = chance.choice(["x", "5A023792-1445-44e9-8a8b-cfe5ad05d1c6", "%ff", "0" * 36])
            path += f"jobs/{job_id}/"
        elif kind < 0.3:
            headers["Idempotency_Key"] = chance.choice(["", "k", "x" * 300, "ä"])
        body = payloads.body()
        before = len(created)
        answer = await site.request(method, path, body, **headers)
        assert answer.status in {200, 400, 422}, (number, method, path, body, answer)
        contract.check(method, path, answer.status, answer.headers, answer.body)
        if answer.status == 200:
            created.add(json.loads(answer.body)["jobId"])
            tasks.add(name)
            assert len(created) in {before, *range(before, before + CONCURRENCY + 1)}

    numbers = iter(range(PAYLOADS_OVER_HTTP))

    async def sender() -> None:
        for number in numbers:
            await send(number)

    await asyncio.gather(*[sender() for _ in range(CONCURRENCY)])
    counts = await site.counts()
    assert counts.jobs == len(created) > PAYLOADS_OVER_HTTP / 10
    assert counts.tasks == len(tasks)
