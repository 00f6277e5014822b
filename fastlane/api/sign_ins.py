"""Failed sign-ins: counted, logged and delayed, by address.

Nobody is locked out: the right password is answered at once, whatever else came from its address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

# How many an address may fail without a delay: typing errors, and a program that learns of a new
# password.
FREE = 5
# The delay of the next one, in seconds; it doubles with each.
FIRST_DELAY_SECONDS = 0.1
# Bounds a delay.
MAX_DELAY_SECONDS = 5.0
# Bounds the answers that are delayed at a time, of one address and in all. Others are not delayed.
DELAYED_PER_ADDRESS = 10
DELAYED = 100
# What is logged of an address is one line in this time.
LOGGED_SECONDS = 60.0
# Bounds the addresses that are counted on their own; the rest count as one.
ADDRESSES = 1000
OTHERS = "others"


@dataclass(slots=True)
class _Failures:
    count: int = 1
    unlogged: int = 0


class FailedSignIns:
    """Remembers an address until a minute has passed in which it failed no more."""

    def __init__(self) -> None:
        self.total = 0
        """How many there were since the start."""
        self._of: dict[str, _Failures] = {}
        self._delayed: Counter[str] = Counter()

    def add(self, address: str) -> None:
        """Count one, and log it when it is the first of its address."""
        self.total += 1
        address = self._key(address)
        failures = self._of.get(address)
        if failures is not None:
            failures.count += 1
            failures.unlogged += 1
            return
        self._of[address] = _Failures()
        self._log(address, 1)
        asyncio.get_running_loop().call_later(LOGGED_SECONDS, self._summarize, address)

    async def delay(self, address: str) -> None:
        """Wait as long as the answer to a failure of *address* is to be held back.

        Who hangs up meanwhile still counts among those that are delayed.
        """
        address = self._key(address)
        failures = self._of.get(address)
        doublings = -1 if failures is None else failures.count - FREE - 1
        if (
            doublings < 0
            or self._delayed[address] >= DELAYED_PER_ADDRESS
            or self._delayed.total() >= DELAYED
        ):
            return
        self._delayed[address] += 1
        try:
            await asyncio.sleep(
                min(FIRST_DELAY_SECONDS * 2 ** min(doublings, 30), MAX_DELAY_SECONDS)
            )
        finally:
            self._delayed[address] -= 1
            if not self._delayed[address]:
                del self._delayed[address]

    def _key(self, address: str) -> str:
        return address if address in self._of or len(self._of) < ADDRESSES else OTHERS

    def _summarize(self, address: str) -> None:
        failures = self._of[address]
        if not failures.unlogged:
            del self._of[address]
            return
        self._log(address, failures.unlogged)
        failures.unlogged = 0
        asyncio.get_running_loop().call_later(LOGGED_SECONDS, self._summarize, address)

    def _log(self, address: str, count: int) -> None:
        log.warning("Sign-in failed", address=address, count=count, total=self.total)
