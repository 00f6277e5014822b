"""The black list of hosts: drains a host, and puts it back."""

from __future__ import annotations

from collections.abc import Sequence

from fastlane.api.base import BaseHandler
from fastlane.api.problems import Problem
from fastlane.api.schemas import responses
from fastlane.api.schemas.build import host_and_port
from fastlane.api.schemas.payload import read_blacklist
from fastlane.checks import shown
from fastlane.errors import NotFound


class Blacklist(BaseHandler):
    """``/docker-executor/blacklist/``"""

    async def get(self) -> None:
        """The hosts that get no new executions, also those that no farm has any more."""
        records = await self.services.storage.hosts.all()
        hosts = [record.host for record in records if record.blacklisted]
        found: responses.Blacklist = {"hosts": hosts}
        await self.send_json(found)

    async def post(self) -> None:
        """For new executions, on every instance at once; running executions continue.

        Safe to repeat. 404 for a host that is not in the configuration.
        """
        await self._mark(blacklisted=True)

    async def put(self) -> None:
        """As POST."""
        await self._mark(blacklisted=True)

    async def delete(self) -> None:
        """Gives it new executions again, from every instance at once. Safe to repeat."""
        await self._mark(blacklisted=False)

    async def _mark(self, *, blacklisted: bool) -> None:
        services = self.services
        name = read_blacklist(self.request.body)
        for host in self._configured(name):
            await services.lifecycle.blacklist_host(host, blacklisted=blacklisted)
        # This instance obeys before it answers, whichever reads the event first.
        services.hosts.take(await services.storage.hosts.all())
        found: responses.BlacklistedHost = {"host": name, "blacklisted": blacklisted}
        await self.send_json(found)

    def _configured(self, name: str) -> Sequence[str]:
        """The configured hosts that *name* means, however each is written.

        :raises Problem: 400, it is not the name of a host.
        :raises NotFound: there is no such host.
        """
        hosts = {host for farm in self.services.farms for host in farm.hosts}
        if name in hosts:
            return [name]
        try:
            self.services.executors.check_host(name)
        except ValueError as error:
            message = str(error)
            raise Problem(400, f"{message[:1].upper()}{message[1:]}.") from error
        found = sorted(host for host in hosts if host_and_port(host) == host_and_port(name))
        if not found:
            raise NotFound(f"No farm has a host {shown(name)}.")
        return found
