"""``/openapi.json``, and ``/docs/``, the page on which people read it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastlane.api import openapi
from fastlane.api.base import BaseHandler
from fastlane.api.openapi import TAGS, document_path, spellings
from fastlane.api.operations import PROBLEM, Operation, Route
from fastlane.api.pages.stream import Page
from fastlane.encoding import to_json


class Document(BaseHandler):
    """``/openapi.json``"""

    async def get(self) -> None:
        """The OpenAPI 3.1 document of this server."""
        document = openapi.document(self.services.version, self.settings["routes"])
        await self.send_json({**document, "servers": [{"url": self.urls.base}]})


class Docs(Page):
    """``/docs/``"""

    async def get(self) -> None:
        """A page on which to read the API."""
        document = openapi.document(self.services.version, self.settings["routes"])
        page = _Page(document)
        self.send_page(
            "docs.html",
            version=self.services.version,
            description=openapi.DESCRIPTION,
            tags=TAGS,
            operations=tuple(page.operations(self.settings["routes"], self.urls.base)),
            schemas=tuple(page.shown_schemas()),
            everywhere={
                str(status): openapi.PROBLEMS[status][0]
                for status in sorted(openapi.EVERYWHERE - {400})
            },
            prose=prose,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter, or a key of an object."""

    name: str
    place: str
    required: bool
    kind: str
    reference: str | None
    """The name of the schema that *kind* speaks of."""
    default: str | None
    description: str
    example: str | None = None


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """One status of an operation."""

    status: str
    description: str
    media: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class ShownOperation:
    """An operation as the page shows it."""

    operation: Operation
    tag: str
    description: str
    methods: tuple[str, ...]
    path: str
    others: tuple[str, ...]
    """Further spellings, beside the one without the slash at its end."""
    parameters: tuple[Row, ...]
    body: tuple[Row, ...]
    answers: tuple[ShownAnswer, ...]
    call: str | None
    example: str | None


@dataclass(frozen=True, slots=True)
class ShownSchema:
    """An object that answers and payloads are made of."""

    name: str
    description: str
    rows: tuple[Row, ...]


class _Page:
    """Shows one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths = document["paths"]
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]

    def operations(self, routes: Sequence[Route], base: str) -> Iterator[ShownOperation]:
        for route in routes:
            for operation in route.operations.values():
                yield self._operation(route, operation, base)

    def shown_schemas(self) -> Iterator[ShownSchema]:
        for name, schema in sorted(self._schemas.items()):
            if schema.get("type") == "object":
                yield ShownSchema(name, schema.get("description", ""), tuple(self._rows(schema)))

    def _operation(self, route: Route, operation: Operation, base: str) -> ShownOperation:
        path = document_path(route)
        item = self._paths[path]
        described = item[operation.method]
        parameters = [*item["parameters"], *described["parameters"]]
        body, answer = operation.body, operation.answer
        example = (
            self._schemas[answer.__name__]["examples"][0] if isinstance(answer, type) else None
        )
        return ShownOperation(
            operation,
            route.tag,
            described["description"],
            (operation.method, "head")
            if operation.method == "get" and "head" in item
            else (operation.method,),
            path,
            tuple(one for one in spellings(route)[2:] if one.endswith("/")),
            tuple(map(self._parameter, parameters)),
            () if body is None else tuple(self._rows(self._schemas[body.__name__])),
            tuple(_answers(described["responses"])),
            None if answer is None else _call(operation, base + path, parameters),
            example,
        )

    def _parameter(self, parameter: Mapping[str, Any]) -> Row:
        kind, named = self._kind(parameter["schema"])
        return Row(
            parameter["name"],
            parameter["in"],
            parameter["required"],
            kind,
            named,
            _text(parameter["schema"].get("default")),
            parameter["description"],
            parameter.get("example"),
        )

    def _rows(self, schema: Mapping[str, Any]) -> Iterator[Row]:
        for name, inner in schema.get("properties", {}).items():
            kind, named = self._kind(inner)
            examples = inner.get("examples", ())
            yield Row(
                name,
                "",
                name in schema.get("required", ()),
                kind,
                named,
                _text(inner.get("default")),
                inner.get("description", ""),
                ", ".join(str(_text(example)) for example in examples) or None,
            )

    def _kind(self, schema: Mapping[str, Any]) -> tuple[str, str | None]:
        """A schema's type in words, and the name of the schema in it if there is one."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            values = self._schemas[name].get("enum")
            return (" · ".join(values), None) if values else (name, name)
        if "anyOf" in schema:
            arms = [self._kind(arm) for arm in schema["anyOf"]]
            named = next((name for _, name in arms if name), None)
            return " or ".join(kind for kind, _ in arms), named
        if "enum" in schema:
            return " · ".join(map(str, schema["enum"])), None
        kind, named = str(schema.get("type", "any")), None
        if kind == "array":
            inner, named = self._kind(schema.get("items", {}))
            kind = f"list of {inner}"
        elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
            inner, named = self._kind(schema["additionalProperties"])
            kind = f"object of {inner}"
        bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
        # Bounds of lengths are there to bound memory and would drown the rest.
        if bounds and not kind.startswith(("string", "list", "object")):
            kind = f"{kind} {', '.join(bounds)}"
        return kind, named


def _call(operation: Operation, url: str, parameters: Sequence[Mapping[str, Any]]) -> str:
    for one in parameters:
        if one["in"] == "path":
            url = url.replace(f"{{{one['name']}}}", one["example"])
        elif one["in"] == "query" and one["required"]:
            url = f"'{url}?{one['name']}={quote(one['example'])}'"
    words = ["curl"]
    if operation.method != "get":
        words.append(f"-X {operation.method.upper()}")
    if operation.body is not None:
        words.append("""-d '{"image": "ubuntu:latest", "command": "ls -lah"}'""")
    return " ".join([*words, url])


def _answers(responses: Mapping[str, Any]) -> Iterator[ShownAnswer]:
    for status, response in responses.items():
        if status == "304" or int(status) in openapi.EVERYWHERE - {400}:
            # Said once for all.
            continue
        if "$ref" in response:
            model = "PayloadProblem" if status == "400" else "ProblemDetails"
            yield ShownAnswer(status, openapi.PROBLEMS[int(status)][0], PROBLEM, model)
            continue
        content: Mapping[str, Any] = response.get("content") or {}
        named = next((value["schema"].get("$ref") for value in content.values()), None)
        yield ShownAnswer(
            status,
            response["description"],
            ", ".join(content),
            None if named is None else named.rpartition("/")[2],
        )


def _text(value: Any) -> str | None:
    return None if value is None or value == {} else to_json(value)


_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {}",
}


def prose(text: str) -> str:
    """*text* as HTML: what stands between backticks is code, an empty line ends a paragraph."""
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text.strip()))
    return "".join(f"<p>{part}</p>" for part in re.split(r"\n\s*\n", coded))
