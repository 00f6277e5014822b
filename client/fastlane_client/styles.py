"""One source for both styles: how a method that is a generator becomes a blocking or awaited call.

A method below is written once, as a generator of :mod:`fastlane_client.core`. On an object of the
blocking style it is called as usual; on one of the other style it is awaited, or iterated with
``async for``. Type checkers know which, from the type of the object.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from fastlane_client.core import Core, Items, Op
from fastlane_client.drivers import AsyncDriver, SyncDriver

if TYPE_CHECKING:
    from fastlane_client.runs import AsyncRun, Run, RunId

P = ParamSpec("P")
T = TypeVar("T")


class Styled:
    """The base of all objects that have operations."""

    _driver: Any

    @property
    def _core(self) -> Core:
        core: Core = self._driver.core
        return core


class Sync(Styled):
    """Its operations block."""

    _driver: SyncDriver

    def _started(self, run_id: RunId) -> Run:
        from fastlane_client.runs import Run

        return Run(self._driver, run_id)


class Async(Styled):
    """Its operations are awaited."""

    _driver: AsyncDriver

    def _started(self, run_id: RunId) -> AsyncRun:
        from fastlane_client.runs import AsyncRun

        return AsyncRun(self._driver, run_id)


class _Method:
    """The base of the descriptors; ``help()`` and ``inspect`` show the method inside."""

    def __init__(self, method: Callable[..., Any]) -> None:
        for name in (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__"):
            setattr(self, name, getattr(method, name, method))
        self.method = method


class call(_Method, Generic[P, T]):  # noqa: N801
    """A method that returns one thing."""

    def __init__(self, method: Callable[Concatenate[Any, P], Op[T]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, on: None, owner: type) -> Self: ...
    @overload
    def __get__(self, on: Sync, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, on: Async, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, on: Any, owner: type) -> Any:
        if on is None:
            return self

        @functools.wraps(self.method)
        def run(*args: Any, **kwargs: Any) -> Any:
            return on._driver.run(self.method(on, *args, **kwargs))

        return run


class items(_Method, Generic[P, T]):  # noqa: N801
    """A method that produces many things, one after the other."""

    def __init__(self, method: Callable[Concatenate[Any, P], Items[T]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, on: None, owner: type) -> Self: ...
    @overload
    def __get__(self, on: Sync, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, on: Async, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, on: Any, owner: type) -> Any:
        if on is None:
            return self

        @functools.wraps(self.method)
        def iterate(*args: Any, **kwargs: Any) -> Any:
            return on._driver.iterate(self.method(on, *args, **kwargs))

        return iterate


class starts(_Method, Generic[P]):  # noqa: N801
    """A method that starts a job or an execution, and returns the run to follow."""

    def __init__(self, method: Callable[Concatenate[Any, P], Op[RunId]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, on: None, owner: type) -> Self: ...
    @overload
    def __get__(self, on: Sync, owner: type) -> Callable[P, Run]: ...
    @overload
    def __get__(self, on: Async, owner: type) -> Callable[P, Awaitable[AsyncRun]]: ...
    def __get__(self, on: Any, owner: type) -> Any:
        if on is None:
            return self

        def made(operation: Op[RunId]) -> Op[Any]:
            run_id = yield from operation
            return on._started(run_id)

        @functools.wraps(self.method)
        def run(*args: Any, **kwargs: Any) -> Any:
            return on._driver.run(made(self.method(on, *args, **kwargs)))

        return run
