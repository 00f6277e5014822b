"""When a cron job ticks: pure functions of an expression, a time zone and a time.

A cron expression matches local minutes. A tick is the point in time at which one of them happens:

* A local minute that occurs twice (the clocks go back) ticks once, the first time.
* One that is skipped (the clocks go forward) ticks at the end of the gap. All minutes that a gap
  skips are one tick.

Five fields as in crontab(5): minute, hour, day of the month, month, day of the week, each ``*``, a
number, a range ``a-b``, either with a step ``/n``, or a list of these. Months and days may be given
by the first three letters of their English name. ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``
and ``@yearly`` are such expressions, too. Sunday is 0 and 7. If both days are restricted
(not ``*``), either may match.
"""

from __future__ import annotations

import calendar
import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from croniter import CroniterBadDateError, croniter

# Bounds the expression; a list of all minutes of an hour fits.
_CRON_MAX_CHARS = 512
# Bounds the name of a time zone; the longest IANA name has 32 characters.
_ZONE_MAX_CHARS = 64
# Bounds the search in years: the 29th of February can be 8 years away (2096 to 2104).
_HORIZON_YEARS = 9
# 9990-01-01 in unix seconds: datetime ends soon after it.
_LAST_SECOND = 253_086_681_600
# How many parsed expressions and time zones are kept.
_CACHE_SIZE = 4096

_ITEM = re.compile(
    r"(?:(?P<star>\*)|(?P<first>[0-9]{1,2}|[a-z]{3})(?:-(?P<last>[0-9]{1,2}|[a-z]{3}))?)"
    r"(?:/(?P<step>[0-9]{1,3}))?",
    re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _quoted(text: str) -> str:
    """*text* in double quotes, escaped if it has characters that cannot be printed."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: Mapping[str, int] = field(default_factory=dict)

    def parse(self, text: str) -> frozenset[int] | None:
        """The numbers in *text*, or None if it matches everything (``*``).

        :raises ValueError: a clause that says what is wrong and what to write.
        """
        if text in ("*", "*/1"):
            return None
        return frozenset(number for item in text.split(",") for number in self._item(item))

    def _item(self, text: str) -> Iterator[int]:
        match = _ITEM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"the {self.name} is {_quoted(text[:20])}; use *, a number from {self.least} to "
                f"{self.most}, a range a-b, a step */n or a list of these"
            )
        step = int(match["step"]) if match["step"] else 1
        if not 1 <= step <= self.most + 1:
            raise ValueError(
                f"the {self.name} is {_quoted(text)}; use a step from 1 to {self.most + 1}"
            )
        if match["star"]:
            first, last = self.least, self.most
        else:
            first = self._number(match["first"])
            last = self._number(match["last"], ends=True) if match["last"] else first
            if match["step"] and not match["last"]:
                last = self.most
        if first > last:
            raise ValueError(
                f"the {self.name} is {_quoted(text)}, a backward range; use two ranges instead: "
                f"{match['first']}-{self.most},{self.least}-{match['last']}"
            )
        return iter(range(first, last + 1, step))

    def _number(self, text: str, *, ends: bool = False) -> int:
        if text.isdigit():
            number = int(text)
        elif (name := text.lower()) in self.names:
            number = self.names[name]
            # SAT-SUN ends with the Sunday that follows, which is 7.
            if ends and name == "sun":
                number = 7
        else:
            known = f" or one of {', '.join(self.names)}" if self.names else ""
            raise ValueError(f"the {self.name} is {_quoted(text)}; use a number{known}")
        if not self.least <= number <= self.most:
            raise ValueError(
                f"the {self.name} is {_quoted(text)}; use a number from {self.least} to {self.most}"
            )
        return number


_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
"""Of crontab(5)."""
# English names; calendar.month_abbr depends on the locale.
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
# The 29th of February is rare but possible; 2000 was a leap year.
_LONGEST = {month: calendar.monthrange(2000, month)[1] for month in range(1, 13)}


def without_nickname(cron: str) -> str:
    """The five fields that a nickname such as ``@daily`` stands for; else *cron* as it is."""
    return _NICKNAMES.get(cron.strip().lower(), cron)


@lru_cache(maxsize=_CACHE_SIZE)
def _plain(cron: str) -> str:
    """*cron* as lists of numbers, which all implementations read in the same way.

    :raises ValueError: as :func:`check_cron`.
    """
    try:
        if len(cron) > _CRON_MAX_CHARS:
            raise ValueError(f"it has more than {_CRON_MAX_CHARS} characters")
        texts = without_nickname(cron).split()
        if len(texts) != len(_FIELDS):
            raise ValueError(
                f"it has {len(texts)} fields; use five: minute, hour, day of the month, month "
                f"and day of the week, or one of {', '.join(_NICKNAMES)}"
            )
        minutes, hours, days, months, weekdays = (
            part.parse(text) for part, text in zip(_FIELDS, texts, strict=True)
        )
        if weekdays is not None:
            weekdays = frozenset(day % 7 for day in weekdays)
        if days is not None and weekdays is not None:
            # Either may match, so a field that names every day makes it every day.
            if len(days) == 31 or len(weekdays) == 7:
                days = weekdays = None
        elif days is not None and min(days) > max(_LONGEST[m] for m in months or _LONGEST):
            raise ValueError(f"there is no day {min(days)} in its months; use a date that exists")
    except ValueError as error:
        raise ValueError(
            f"{_quoted(cron[:100])} is not a valid cron expression: {error}."
        ) from None
    return " ".join(
        "*" if numbers is None else ",".join(map(str, sorted(numbers)))
        for numbers in (minutes, hours, days, months, weekdays)
    )


@lru_cache(maxsize=1)
def _zones_by_any_name() -> dict[str, str]:
    names = sorted(available_timezones() - {"localtime"}, reverse=True)
    cities = {name.rpartition("/")[2].casefold(): name for name in names}
    return cities | {name.casefold(): name for name in names}


@lru_cache(maxsize=_CACHE_SIZE)
def _zone(name: str) -> ZoneInfo:
    try:
        if len(name) <= _ZONE_MAX_CHARS and name != "localtime":
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    asked = name[:_ZONE_MAX_CHARS].strip().replace(" ", "_").casefold()
    close = _zones_by_any_name().get(asked)
    remedy = f'Did you mean "{close}"?' if close else "Use a name like UTC or Europe/Berlin."
    raise ValueError(f"{_quoted(name[:_ZONE_MAX_CHARS])} is not an IANA time zone. {remedy}")


def check_cron(cron: str) -> str:
    """*cron*, if it is a valid expression.

    :raises ValueError: a sentence that says what is wrong with which value and what to write; also
        for dates that never occur (``0 0 30 2 *``).
    """
    _plain(cron)
    return cron


def check_timezone(timezone: str) -> str:
    """*timezone*, if it is the name of an IANA time zone.

    :raises ValueError: a sentence with the value and what to write.
    """
    _zone(timezone)
    return timezone


def next_tick(cron: str, timezone: str, after: float) -> float | None:
    """The first tick later than *after*, or None when there is none before the year 9990.

    Both are unix seconds.

    :raises ValueError: as :func:`check_cron` and :func:`check_timezone`.
    """
    plain, zone = _plain(cron), _zone(timezone)
    if not 0 <= after < _LAST_SECOND:
        if not after < 0:
            return None
        after = 0
    # A tick is a whole second, so it is later than `after` when it is later than its floor.
    return _next_tick(plain, zone, math.floor(after))


# Many jobs with one expression are due in the same second.
@lru_cache(maxsize=_CACHE_SIZE)
def _next_tick(plain: str, zone: ZoneInfo, after: int) -> float | None:
    try:
        minute = _matcher(plain, _local(zone, after)).get_next(datetime)
    except (CroniterBadDateError, OverflowError):
        return None
    return _happens(zone, minute)


def previous_tick(cron: str, timezone: str, at: float) -> float | None:
    """The last tick not later than *at*, or None when there is none since 1970.

    Both are unix seconds.

    :raises ValueError: as :func:`check_cron` and :func:`check_timezone`.
    """
    plain, zone = _plain(cron), _zone(timezone)
    if not at >= 0:
        return None
    start = _local(zone, math.floor(min(at, _LAST_SECOND)))
    try:
        minute = _matcher(plain, start + timedelta(seconds=1)).get_prev(datetime)
    except (CroniterBadDateError, OverflowError):
        return None
    tick = _happens(zone, minute)
    return tick if tick >= 0 else None


def _matcher(plain: str, start: datetime) -> croniter:
    matcher = copy(_parsed(plain))
    matcher.set_current(start)
    return matcher


@lru_cache(maxsize=_CACHE_SIZE)
def _parsed(plain: str) -> croniter:
    """Only copies of it are moved, so that several threads may use it."""
    return croniter(plain, _EPOCH, max_years_between_matches=_HORIZON_YEARS)


def _local(zone: ZoneInfo, at: int) -> datetime:
    """The last local second that had happened for the first time by *at*, without its zone."""
    utc = _EPOCH + timedelta(seconds=at)
    local = utc.astimezone(zone)
    if local.fold:
        # The clocks went back: no minute is new until they have caught up.
        first = _seconds(local.replace(fold=0))
        return _local(zone, _transition(zone, first, at) - 1)
    return local.replace(tzinfo=None)


def _happens(zone: ZoneInfo, minute: datetime) -> float:
    """When a local minute first happens, or the end of the gap that skips it, in unix seconds."""
    first = _seconds(minute.replace(tzinfo=zone, fold=0))
    if (_EPOCH + timedelta(seconds=first)).astimezone(zone).replace(tzinfo=None) == minute:
        return first
    # PEP 495: in a gap, fold=0 gives a time after it, and fold=1 one before it.
    before = _seconds(minute.replace(tzinfo=zone, fold=1))
    return _transition(zone, before, first)


def _transition(zone: ZoneInfo, before: int, after: int) -> int:
    """The first second with the UTC offset of *after*; *before* has a different one."""
    offset = (_EPOCH + timedelta(seconds=after)).astimezone(zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if (_EPOCH + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _seconds(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(seconds=1)
