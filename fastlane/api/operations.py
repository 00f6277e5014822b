"""What an entry of the route table is made of."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tornado.web import RequestHandler

from fastlane.api.negotiation import AS
from fastlane.api.parameters import Parameter
from fastlane.api.problems import Problem
from fastlane.api.schemas.times import TIMES
from fastlane.api.security import Role
from fastlane.checks import shown, suggestion

JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain"
HTML = "text/html"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What one method does on one route. Its description is the docstring of that method."""

    method: str
    """In lower case."""
    id: str
    role: Role
    """The least that a principal needs."""
    summary: str
    answer: type[Any] | tuple[str, ...] | None
    """Of a success: a model (JSON), media types, or None (a WebSocket is opened)."""
    parameters: tuple[Parameter, ...] = ()
    """Of the query and the headers; those of the path are in the path."""
    body: type[Any] | None = None
    body_required: bool = True
    headers: tuple[str, ...] = ()
    """Headers of the successful answers."""
    problems: tuple[int, ...] = ()
    """Statuses of errors beside those that follow from the rest."""
    successes: tuple[int, ...] = (200,)
    """Statuses of success; 204 has no body."""
    media: tuple[str, ...] = ()
    """Media types beside JSON in which an answer that is a model is available."""
    other: type[Any] | None = None
    """A model that a 200 may answer instead."""
    unavailable: type[Any] | None = None
    """What a 503 answers beside a problem."""
    stored: bool = True
    """Whether it needs the storage, which may be unreachable."""

    def check_query(self, names: Mapping[str, object]) -> None:
        """:raises Problem: 400, the query has an unknown parameter or lacks one."""
        known = [one.name for one in self.parameters if one.where == "query"]
        for name in names:
            if name not in known and not name.startswith("_"):
                raise Problem(
                    400, f"Unknown query parameter {shown(name)}.{suggestion(name, known)}"
                )
        for one in self.parameters:
            if one.required and one.name not in names:
                raise Problem(400, f"The query parameter {shown(one.name)} is required.")


get, post, put, delete = (partial(Operation, method) for method in ("get", "post", "put", "delete"))


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One entry: a path, its handler, and what each method does.

    HEAD follows from GET, and OPTIONS is answered everywhere.
    """

    path: str
    handler: type[RequestHandler]
    operations: Mapping[str, Operation]
    """By method."""
    spellings: tuple[str, ...] = ()
    """Other paths that lead here. All paths answer with and without a slash at the end."""
    page: type[RequestHandler] | None = None
    """Answers instead of the handler where :mod:`fastlane.api.negotiation` wants a page."""
    any_host: bool = False
    """Whether it is answered whatever the ``Host`` of the request."""
    tag: str = "Server"
    """The section of the document."""

    def with_page(self, page: type[RequestHandler] | None) -> Route:
        """This route, where *page* answers those who want a page."""
        if page is None:
            return self
        get = self.operations["get"]
        if isinstance(get.answer, tuple):
            get = replace(get, answer=(*dict.fromkeys((*get.answer, HTML)),))
        else:
            get = replace(get, media=(*get.media, HTML))
        get = replace(get, parameters=(*get.parameters, AS))
        return replace(self, page=page, operations={**self.operations, "get": get})

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.spellings)

    @property
    def methods(self) -> list[str]:
        """All methods that are answered, in capitals."""
        get = self.operations.get("get")
        # A WebSocket's handshake is a GET (RFC 6455, section 4.1), but no HEAD.
        head = ["HEAD"] if get is not None and get.answer is not None else []
        return [*map(str.upper, self.operations), *head, "OPTIONS"]

    def operation(self, method: str | None) -> Operation | None:
        """What *method* does, or None for OPTIONS and methods that are not answered."""
        if method not in self.methods:
            return None
        return self.operations.get("get" if method == "HEAD" else method.lower())

    def role(self, method: str | None) -> Role:
        """The least that a principal needs to be answered at all."""
        operation = self.operation(method)
        if operation is not None:
            return operation.role
        return min((one.role for one in self.operations.values()), default=Role.VIEWER)

    def open_to_all(self) -> Route:
        """The same, for which nobody needs credentials."""
        operations = {
            method: replace(one, role=Role.ANONYMOUS) for method, one in self.operations.items()
        }
        return replace(self, operations=operations)

    def description(self, operation: Operation) -> str:
        return inspect.getdoc(getattr(self.handler, operation.method)) or ""


def route(path: str, handler: type[RequestHandler], *operations: Operation, **more: Any) -> Route:
    """A :class:`Route`; *more* are its further fields. What answers JSON has times in any form."""
    operations = tuple(
        replace(one, parameters=(*one.parameters, TIMES)) if isinstance(one.answer, type) else one
        for one in operations
    )
    return Route(path, handler, {one.method: one for one in operations}, **more)
