"""The notification channels that there are. Everything else iterates over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

from pydantic import ValidationError

from fastlane.model import Subscription
from fastlane.notifications.base import Channel, ChannelPayload
from fastlane.notifications.email import EMAIL
from fastlane.notifications.webhook import WEBHOOKS

_channels: dict[str, Channel] = {}


def register(channel: Channel) -> None:
    """Add *channel*, before the server is made.

    :raises ValueError: its name or its key is in use.
    """
    if any(channel.name == one.name or channel.key == one.key for one in _channels.values()):
        raise ValueError(f'There is a channel "{channel.name}" or a key "{channel.key}" already.')
    _channels[channel.name] = channel


def unregister(name: str) -> None:
    """Remove a channel (tests)."""
    del _channels[name]


def channels() -> tuple[Channel, ...]:
    """Every channel, in the order in which they were registered."""
    return tuple(_channels.values())


def subscriptions_of(stored: Mapping[str, Any]) -> tuple[Subscription, ...]:
    """What a stored definition asks of the channels.

    What is malformed is left out: it was refused on submission, and nothing in a stored definition
    may keep an execution from its end.
    """
    found = []
    for channel in channels():
        if channel.key in stored:
            with contextlib.suppress(ValidationError):
                found.append(channel.payload.model_validate(stored[channel.key]))
    return wanted_of(found)


def wanted_of(found: Iterable[ChannelPayload]) -> tuple[Subscription, ...]:
    """Those of *found* that ask for anything."""
    return tuple(cast(Subscription, one) for one in found if one != nothing(type(one)))


@cache
def nothing(payload: type[ChannelPayload]) -> ChannelPayload:
    """What asks for nothing."""
    return payload()


def stored_subscriptions(subscriptions: Iterable[Subscription]) -> dict[str, Any]:
    """The reverse of :func:`subscriptions_of`."""
    return {_channels[one.channel].key: one.stored() for one in subscriptions}


register(WEBHOOKS)
register(EMAIL)
