"""The notification channels that there are. Everything else iterates over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastlane.model import Subscription
from fastlane.notifications.base import Channel
from fastlane.notifications.email import EmailChannel
from fastlane.notifications.webhook import WebhookChannel

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
    """What a payload or a stored definition asks of the channels it names."""
    found = []
    for channel in channels():
        if isinstance(wanted := stored.get(channel.key), Mapping):
            subscription = channel.subscription(wanted)
            if subscription != channel.subscription({}):
                found.append(subscription)
    return tuple(found)


def stored_subscriptions(subscriptions: Iterable[Subscription]) -> dict[str, Any]:
    """The reverse of :func:`subscriptions_of`."""
    return {_channels[one.channel].key: one.stored() for one in subscriptions}


register(WebhookChannel())
register(EmailChannel())
