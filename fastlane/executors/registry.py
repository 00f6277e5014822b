"""The executors that there are, and which of them a host belongs to.

Another executor is a module with an :class:`~fastlane.executors.base.Executor` and its
:class:`~fastlane.executors.base.ExecutorFactory`, and one line at the end of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

from fastlane.executors.base import Executor, ExecutorFactory, Settings
from fastlane.executors.docker.factory import DockerFactory, SwarmFactory
from fastlane.executors.process.farms import ProcessFactory
from fastlane.model import Farm

_factories: dict[str, ExecutorFactory] = {}


def register(factory: ExecutorFactory) -> None:
    """Add *factory*, before the configuration is loaded.

    :raises ValueError: its name is in use.
    """
    if factory.name in _factories:
        raise ValueError(f'There is an executor "{factory.name}" already.')
    _factories[factory.name] = factory


def unregister(name: str) -> None:
    """Remove an executor (tests)."""
    del _factories[name]


def names() -> tuple[str, ...]:
    """The names of all executors, in the order in which they were registered."""
    return tuple(_factories)


def factory(name: str) -> ExecutorFactory:
    """The factory with *name*.

    :raises KeyError: there is none.
    """
    return _factories[name]


def name_for(host: str, default: str) -> str:
    """The executor of a *host* whose farm names none.

    Its scheme decides where it has one: *default* if that executor knows the scheme, else the first
    that does. Without a scheme, or with one that nobody knows, it is *default*.
    """
    scheme, separator, _ = host.partition("://")
    if separator:
        for name in (default, *_factories):
            if scheme in _factories[name].schemes:
                return name
    return default


class Executors:
    """The executors of one server, found by the host that they serve.

    :param executors: by name. There is one for every factory, because an execution may be found on
        a host whose farm is no longer configured.
    :param default: the name of the executor of hosts that belong to no other.
    """

    def __init__(
        self, executors: Mapping[str, Executor], *, farms: Iterable[Farm] = (), default: str
    ) -> None:
        self._executors = dict(executors)
        self._names = {host: farm.executor for farm in farms for host in farm.hosts}
        self._default = default
        self._opened = AsyncExitStack()

    @classmethod
    def single(cls, executor: Executor, farms: Iterable[Farm] = ()) -> Executors:
        """One executor for all hosts (tests)."""
        return cls({executor.name: executor}, farms=farms, default=executor.name)

    @classmethod
    def configured(cls, settings: Settings, farms: Iterable[Farm], *, default: str) -> Executors:
        """The executors that *farms* ask for.

        :raises ConfigError: what the options of an executor name cannot be used.
        """
        farms = list(farms)
        made = {
            name: each.make(settings, [farm for farm in farms if farm.executor == name])
            for name, each in _factories.items()
        }
        return cls(made, farms=farms, default=default)

    @property
    def default(self) -> str:
        """The name of the executor of hosts that belong to no other."""
        return self._default

    def of(self, host: str) -> Executor:
        """The executor of *host*, which need not be configured any more."""
        if len(self._executors) == 1:
            return self._executors[self._default]
        return self._executors[self._names.get(host) or name_for(host, self._default)]

    def check_host(self, host: str) -> None:
        """Accept a host that one of the executors in use could have.

        :raises ValueError: it is malformed.
        """
        in_use = {name for name in self._names.values() if name} or {self._default}
        faults: list[ValueError] = []
        for name in sorted(in_use & _factories.keys()):
            try:
                _factories[name].check_host(host)
            except ValueError as error:
                faults.append(error)
            else:
                return
        if faults:
            raise faults[0]

    async def open(self, installation: str) -> None:
        """Open all of them; if one fails, those before it are closed again."""
        async with AsyncExitStack() as opened:
            for executor in self._executors.values():
                opened.push_async_callback(executor.close)
                await executor.open(installation)
            self._opened = opened.pop_all()

    async def close(self) -> None:
        """Close all of them. Safe to repeat."""
        await self._opened.aclose()


register(DockerFactory())
register(SwarmFactory())
register(ProcessFactory())
