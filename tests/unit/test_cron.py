"""Cron with time zones: tables over both changes of the clocks, and a walk over every minute."""

from __future__ import annotations

import contextlib
import json
import math
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from fastlane.cron import check_cron, check_timezone, next_tick, previous_tick


def at(text: str) -> float:
    """Unix seconds of an ISO time; UTC where it says nothing else."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def ticks(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The local times, with their offset, of the first *count* ticks after a local time."""
    tzinfo = ZoneInfo(zone)
    now = datetime.fromisoformat(after).replace(tzinfo=tzinfo).timestamp()
    found = []
    for _ in range(count):
        tick = next_tick(cron, zone, now)
        assert tick is not None
        assert tick > now
        found.append(datetime.fromtimestamp(tick, tzinfo).isoformat(timespec="minutes"))
        now = tick
    return found


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        pytest.param(
            "*/20 22 * * *",
            "2026-01-01T22:15",
            ["2026-01-01T22:20", "2026-01-01T22:40", "2026-01-02T22:00"],
            id="step",
        ),
        pytest.param(
            "5-9/2,30 1 * * *",
            "2026-01-01T00:00",
            ["2026-01-01T01:05", "2026-01-01T01:07", "2026-01-01T01:09", "2026-01-01T01:30"],
            id="range, step and list",
        ),
        pytest.param(
            "50/5 0 * * *",
            "2026-01-01T00:00",
            ["2026-01-01T00:50", "2026-01-01T00:55", "2026-01-02T00:50"],
            id="step from a number",
        ),
        pytest.param("0 0 * * 0", "2026-01-01T00:00", ["2026-01-04T00:00"], id="Sunday is 0"),
        pytest.param("0 0 * * 7", "2026-01-01T00:00", ["2026-01-04T00:00"], id="Sunday is 7"),
        pytest.param("0 0 * * SUN", "2026-01-01T00:00", ["2026-01-04T00:00"], id="SUN"),
        pytest.param(
            "0 0 * * sat-sun",
            "2026-01-01T00:00",
            ["2026-01-03T00:00", "2026-01-04T00:00", "2026-01-10T00:00"],
            id="a range that ends on Sunday",
        ),
        pytest.param(
            "0 0 * * 5-7",
            "2026-01-01T00:00",
            ["2026-01-02T00:00", "2026-01-03T00:00", "2026-01-04T00:00", "2026-01-09T00:00"],
            id="a range up to 7",
        ),
        pytest.param(
            "0 6 1 jan,JUL *",
            "2026-01-02T00:00",
            ["2026-07-01T06:00", "2027-01-01T06:00"],
            id="month names",
        ),
        pytest.param(
            "0 0 31 * *",
            "2026-01-31T00:00",
            ["2026-03-31T00:00", "2026-05-31T00:00", "2026-07-31T00:00"],
            id="month ends",
        ),
        pytest.param(
            "0 0 29 2 *",
            "2026-01-01T00:00",
            ["2028-02-29T00:00", "2032-02-29T00:00"],
            id="leap day",
        ),
        pytest.param(
            "0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29T00:00"], id="2100 is no leap year"
        ),
        pytest.param(
            "0 0 13 * 5",
            "2026-01-01T00:00",
            ["2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00", "2026-01-16T00:00"],
            id="day of the month or day of the week",
        ),
        pytest.param(
            "0 0 1-31 * 1",
            "2026-01-01T00:00",
            ["2026-01-02T00:00", "2026-01-03T00:00"],
            id="every day of the month or Monday",
        ),
        pytest.param(
            "0 0 30 2 1",
            "2026-01-01T00:00",
            ["2026-02-02T00:00", "2026-02-09T00:00"],
            id="a date that never comes, or Monday",
        ),
        pytest.param(
            "59 23 31 12 *", "2026-12-31T23:58", ["2026-12-31T23:59", "2027-12-31T23:59"], id="year"
        ),
    ],
)
def test_fields(cron: str, after: str, expected: list[str]) -> None:
    found = ticks(cron, "UTC", after, len(expected))
    assert found == [f"{text}+00:00" for text in expected]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T03:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
            id="Berlin forward: skipped, so at the end of the gap",
        ),
        pytest.param(
            "*/10 2 * * *",
            "Europe/Berlin",
            "2026-03-28T03:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"],
            id="Berlin forward: all that is skipped is one tick",
        ),
        pytest.param(
            "0,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00",
            ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00", "2026-03-30T02:00+02:00"],
            id="Berlin forward: and one with the tick that is there anyway",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T01:00",
            ["2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"],
            id="Berlin forward: every half hour",
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T03:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
            id="Berlin back: once, the first time",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T01:45",
            [
                "2026-10-25T02:00+02:00",
                "2026-10-25T02:30+02:00",
                "2026-10-25T03:00+01:00",
            ],
            id="Berlin back: a repeated hour runs once",
        ),
        pytest.param(
            "15 2 8 3 *",
            "America/New_York",
            "2026-01-01T00:00",
            ["2026-03-08T03:00-04:00", "2027-03-08T02:15-05:00"],
            id="New York forward",
        ),
        pytest.param(
            "0 1 * * *",
            "America/New_York",
            "2026-10-31T12:00",
            ["2026-11-01T01:00-04:00", "2026-11-02T01:00-05:00"],
            id="New York back",
        ),
        pytest.param(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00",
            ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
            id="Lord Howe forward by half an hour",
        ),
        pytest.param(
            "*/15 1,2 * * *",
            "Australia/Lord_Howe",
            "2026-04-05T01:15",
            [
                "2026-04-05T01:30+11:00",
                "2026-04-05T01:45+11:00",
                "2026-04-05T02:00+10:30",
                "2026-04-05T02:15+10:30",
            ],
            id="Lord Howe back by half an hour",
        ),
        pytest.param(
            "0 9 * * mon-fri",
            "Asia/Kolkata",
            "2026-01-02T09:00",
            ["2026-01-05T09:00+05:30", "2026-01-06T09:00+05:30"],
            id="Kolkata, half an hour off",
        ),
        pytest.param(
            "0 0 * * *",
            "America/Sao_Paulo",
            "2018-11-03T12:00",
            ["2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"],
            id="Sao Paulo forward: midnight is skipped",
        ),
        pytest.param(
            "30 23 * * *",
            "America/Sao_Paulo",
            "2019-02-16T12:00",
            ["2019-02-16T23:30-02:00", "2019-02-17T23:30-03:00"],
            id="Sao Paulo back: before midnight",
        ),
        pytest.param(
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-12-01T00:00",
            ["2011-12-31T00:00+14:00", "2012-12-30T12:00+14:00"],
            id="Apia left out a whole day",
        ),
    ],
)
def test_changes_of_the_clocks(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert ticks(cron, zone, after, len(expected)) == expected


def test_inside_the_second_run_of_an_hour_nothing_is_new() -> None:
    second = at("2026-10-25T02:30+01:00")
    assert next_tick("* * * * *", "Europe/Berlin", second) == at("2026-10-25T03:00+01:00")
    assert previous_tick("* * * * *", "Europe/Berlin", second) == at("2026-10-25T02:59+02:00")


@pytest.mark.parametrize(
    ("cron", "zone", "now", "expected"),
    [
        ("0 * * * *", "UTC", "2026-01-01T10:00", "2026-01-01T10:00"),
        ("0 * * * *", "UTC", "2026-01-01T10:00:59", "2026-01-01T10:00"),
        ("0 * * * *", "UTC", "2026-01-01T09:59:59.999", "2026-01-01T09:00"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", "2024-02-29T00:00"),
        ("0 0 29 2 *", "UTC", "2104-02-28T00:00", "2096-02-29T00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T03:00+02:00", "2026-03-29T03:00+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:59+01:00", "2026-03-28T02:30+01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:30+02:00"),
    ],
)
def test_previous(cron: str, zone: str, now: str, expected: str) -> None:
    assert previous_tick(cron, zone, at(now)) == at(expected)


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "it has 0 fields; use five"),
        ("@often", "it has 1 fields"),
        ("* * * *", "it has 4 fields"),
        ("0 * * * * *", "it has 6 fields"),
        ("60 * * * *", 'the minute is "60"; use a number from 0 to 59'),
        ("* 24 * * *", 'the hour is "24"; use a number from 0 to 23'),
        ("* * 0 * *", 'the day of the month is "0"; use a number from 1 to 31'),
        ("* * * 13 *", 'the month is "13"'),
        ("* * * * 8", 'the day of the week is "8"; use a number from 0 to 7'),
        ("* * * * mo", 'the day of the week is "mo"'),
        ("* * * foo *", "or one of jan, feb"),
        ("mon * * * *", 'the minute is "mon"'),
        ("*/0 * * * *", "use a step from 1 to 60"),
        ("*/90 * * * *", "use a step from 1 to 60"),
        ("-1 * * * *", 'the minute is "-1"'),
        ("1,,2 * * * *", 'the minute is ""'),
        ("5.5 * * * *", 'the minute is "5.5"'),
        ("* 22-2 * * *", "backward range; use two ranges instead: 22-23,0-2"),
        ("* * L * *", 'the day of the month is "L"'),
        ("* * ? * *", 'the day of the month is "?"'),
        ("* * * * 5#2", 'the day of the week is "5#2"'),
        ("H * * * *", 'the minute is "H"'),
        ("٣ * * * *", "the minute is"),
        ("0 0 30 2 *", "there is no day 30 in its months"),
        ("0 0 31 4,6,9,11 *", "there is no day 31"),
        ("0," * 1000 + "0 * * * *", "more than 512 characters"),
    ],
)
def test_a_bad_cron_is_named(cron: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid cron expression: .*\.$") as caught:
        check_cron(cron)
    assert says in str(caught.value)
    assert json.dumps(cron, ensure_ascii=False)[:20] in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("Berlin", 'Did you mean "Europe/Berlin"?'),
        ("europe/berlin", 'Did you mean "Europe/Berlin"?'),
        ("new york", 'Did you mean "America/New_York"?'),
        ("Europe", "Use a name like UTC"),
        ("", "Use a name like UTC"),
        ("localtime", "Use a name like UTC"),
        ("../../etc/passwd", "Use a name like UTC"),
        ("/etc/localtime", "Use a name like UTC"),
        ("\0", "Use a name like UTC"),
        ("\ud800", "Use a name like UTC"),
        ("x" * 100_000, "Use a name like UTC"),
    ],
)
def test_a_bad_zone_is_named(zone: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"is not an IANA time zone\. ") as caught:
        check_timezone(zone)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


def test_times_out_of_range_have_no_tick() -> None:
    assert next_tick("* * * * *", "UTC", math.inf) is None
    assert next_tick("* * * * *", "UTC", math.nan) is None
    assert previous_tick("* * * * *", "UTC", -1) is None
    assert previous_tick("* * * * *", "UTC", math.nan) is None
    assert previous_tick("0 0 29 2 *", "UTC", 5) is None
    assert next_tick("0 0 * * *", "UTC", -5) == 86_400


NUMBERS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Chatham",
)


@st.composite
def fields(draw: st.DrawFn, name: str) -> tuple[str, frozenset[int] | None]:
    """The text of a field, and the numbers that it must stand for (None: any)."""
    least, most = NUMBERS[name]
    kind = draw(st.sampled_from(["star", "star", "step", "list", "range"]))
    if kind == "star":
        return "*", None
    if kind == "step":
        step = draw(st.integers(2, most))
        return f"*/{step}", frozenset(range(least, most + 1, step))
    if kind == "list":
        numbers = draw(st.sets(st.integers(least, most), min_size=1, max_size=4))
        return ",".join(map(str, numbers)), frozenset(numbers)
    first = draw(st.integers(least, most))
    last = draw(st.integers(first, most))
    step = draw(st.integers(1, 5))
    return f"{first}-{last}/{step}", frozenset(range(first, last + 1, step))


Parsed = tuple[str, tuple[frozenset[int] | None, ...]]


@st.composite
def crons(draw: st.DrawFn) -> Parsed:
    parts = [draw(fields(name)) for name in NUMBERS]
    return " ".join(text for text, _ in parts), tuple(numbers for _, numbers in parts)


def matches(parsed: tuple[frozenset[int] | None, ...], local: datetime) -> bool:
    minute, hour, day, month, weekday = parsed
    if minute is not None and local.minute not in minute:
        return False
    if hour is not None and local.hour not in hour:
        return False
    if month is not None and local.month not in month:
        return False
    days = day is None or local.day in day
    weekdays = weekday is None or local.isoweekday() in {7 if w == 0 else w for w in weekday}
    return days or weekdays if day is not None and weekday is not None else days and weekdays


def never_comes(parsed: tuple[frozenset[int] | None, ...]) -> bool:
    _, _, day, month, weekday = parsed
    if day is None or weekday is not None:
        return False
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    return all(min(day) > longest.get(m, 31) for m in month or range(1, 13))


def walk(parsed: tuple[frozenset[int] | None, ...], zone: str, first: int, last: int) -> list[int]:
    """The ticks from *first* to *last* (whole minutes), found by looking at every minute."""
    tzinfo = ZoneInfo(zone)
    found = []
    minutes = [datetime.fromtimestamp(m, tzinfo) for m in range(first - 60, last + 1, 60)]
    for before, local in pairwise(minutes):
        candidate = before.replace(tzinfo=None) + timedelta(minutes=1)
        here = local.replace(tzinfo=None)
        ticked = local.fold == 0 and matches(parsed, here)
        while candidate < here:
            ticked = ticked or matches(parsed, candidate)
            candidate += timedelta(minutes=1)
        if ticked:
            found.append(int(local.timestamp()))
    return found


CHANGES = [
    at(text)
    for text in (
        "2026-03-29T01:00",
        "2026-10-25T01:00",
        "2026-03-08T07:00",
        "2026-11-01T06:00",
        "2026-10-03T15:30",
        "2026-04-04T15:00",
        "2018-11-04T03:00",
        "2019-02-17T02:00",
        "2028-02-29T00:00",
        "2026-12-31T23:00",
    )
]
moments = st.one_of(
    st.builds(
        lambda change, offset: change + offset,
        st.sampled_from(CHANGES),
        st.floats(-2 * 86_400, 2 * 86_400),
    ),
    # Nothing ticks before 1970, and the walk begins before its middle.
    st.floats(200_000, 4_000_000_000),
)
# How many minutes of UTC are walked through on each side.
WALK = 26 * 60


NEVER: Parsed = (
    "0 0 30 2 *",
    (frozenset({0}), frozenset({0}), frozenset({30}), frozenset({2}), None),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crons(), st.sampled_from(ZONES), moments)
@example(("* * * * *", (None,) * 5), "Australia/Lord_Howe", at("2026-04-04T15:10"))
@example(("*/7 * * * *", (frozenset(range(0, 60, 7)), *(None,) * 4)), "Europe/Berlin", CHANGES[1])
@example(NEVER, "UTC", CHANGES[1])
def test_every_minute_agrees(cron: Parsed, zone: str, after: float) -> None:
    text, parsed = cron
    if never_comes(parsed):
        with pytest.raises(ValueError, match="there is no day"):
            check_cron(text)
        return
    middle = math.floor(after / 60) * 60
    expected = walk(parsed, zone, middle - WALK * 60, middle + WALK * 60)
    later = [tick for tick in expected if tick > after]
    earlier = [tick for tick in expected if tick <= after]

    now = after
    found: list[float] = []
    while len(found) < min(len(later), 100):
        tick = next_tick(text, zone, now)
        assert tick is not None
        assert tick > now
        found.append(tick)
        now = tick
    assert found == later[: len(found)]
    if not later:
        tick = next_tick(text, zone, after)
        assert tick is None or tick > middle + WALK * 60

    before = previous_tick(text, zone, after)
    if earlier:
        assert before == earlier[-1]
    else:
        assert before is None or before < middle - WALK * 60


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crons(), st.sampled_from(ZONES), st.floats(0, 30_000_000_000))
def test_next_and_previous_are_each_others_reverse(cron: Parsed, zone: str, after: float) -> None:
    # Those are refused; see above.
    assume(not never_comes(cron[1]))
    tick = next_tick(cron[0], zone, after)
    assert tick is not None
    assert tick > after
    # Nine years hold two leap days, also around 2100.
    assert tick - after < 9 * 366 * 86_400
    assert previous_tick(cron[0], zone, tick) == tick
    before = previous_tick(cron[0], zone, math.nextafter(tick, 0))
    assert before is None or before <= after


FIELDS = st.from_regex(r"[*1-7](/[1-7]|,[1-7]|-7)?", fullmatch=True)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0123456789*/,-LW#?@ HRmonjan", max_size=40),
        # Five fields, many of which are good.
        st.lists(
            st.from_regex(r"[*1-7](/[1-7]|,[1-7]|-7)?", fullmatch=True), min_size=5, max_size=5
        ).map(" ".join),
    )
)
def test_any_text_is_decided_quickly(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):
        check_cron(text)
        assert next_tick(text, "Europe/Berlin", 1_700_000_000) is not None
    assert time.process_time() - began < 1
