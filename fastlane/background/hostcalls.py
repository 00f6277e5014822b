"""Calls the host of one execution until it answers, or decides that it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from fastlane.background.context import Context
from fastlane.background.retrying import new_pause
from fastlane.errors import HostUnavailable, NotStarted, RunOutOfReach
from fastlane.hosts import Circuit

log = structlog.get_logger(__name__)

T = TypeVar("T")


class HostLost(Exception):
    """The host was unreachable for too long."""


class Requeue(Exception):
    """The host failed before anything could have been started: any host may run the execution."""


class HostCalls:
    """The calls to one host, which keep account of its health."""

    def __init__(self, context: Context, host: str) -> None:
        self._executor = context.executors.of(host)
        self._hosts = context.hosts
        self._host = host
        self._lost_after_seconds = context.options.host_lost_after_seconds

    async def until_answered(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        may_requeue: bool = False,
        unless_refused: bool = False,
        doubtful: bool = False,
    ) -> T:
        """Call until the host answers.

        :param may_requeue: nothing ties the execution to a host whose circuit is open.
        :param unless_refused: nor to one that refuses to start it.
        :param doubtful: the host may be unreachable already.
        :raises Requeue: the host's circuit is open (*may_requeue*).
        :raises NotStarted: the host's circuit is open (*unless_refused*).
        :raises HostLost: it did not answer for too long.
        """
        now = asyncio.get_running_loop().time
        lost_at: float | None = None
        pause = new_pause()
        while True:
            try:
                if doubtful:
                    # A frozen host fails this within seconds, other calls only at their limit.
                    await self._executor.check(self._host)
                result = await call()
            except HostUnavailable as error:
                doubtful = True
                if not isinstance(error, RunOutOfReach):
                    self._hosts.failed(self._host, str(error))
                if lost_at is None:
                    log.warning("The host is unreachable", error=str(error))
                    lost_at = now() + self._lost_after_seconds
                over = now() >= lost_at
                if over or self._hosts.circuit(self._host) is Circuit.OPEN:
                    if may_requeue:
                        raise Requeue(str(error)) from error
                    if unless_refused and isinstance(error, NotStarted):
                        raise
                if over:
                    raise HostLost(self._lost_message(error)) from error
                await pause.wait()
            else:
                if lost_at is not None:
                    self._hosts.answered(self._host)
                return result

    def _lost_message(self, error: HostUnavailable) -> str:
        seconds = f"for more than {self._lost_after_seconds:g} s"
        if isinstance(error, RunOutOfReach):
            return f"The run was unreachable {seconds}: {error}."
        return f"Host {self._host} was unreachable {seconds}."
