"""``/openapi.json``, and ``/docs/``, the page on which people read it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tornado.util import ObjectDict

from fastlane.api import openapi
from fastlane.api.base import BaseHandler
from fastlane.api.openapi import TAGS, document_path, spellings
from fastlane.api.operations import PROBLEM, Operation, Route
from fastlane.api.pages.page import Page
from fastlane.encoding import to_json


class Document(BaseHandler):
    """``/openapi.json``"""

    async def get(self) -> None:
        """The OpenAPI 3.1 document of this server."""
        document = openapi.document(self.services.version, self.settings["routes"])
        await self.send_json({**document, "servers": [{"url": self.urls.base}]})


class Docs(Page):
    """``/docs/``"""

    async def get(self, *ids: str | None) -> None:
        """A page on which to read the API."""
        document = openapi.document(self.services.version, self.settings["routes"])
        page = _Page(document)
        await self.send_page(
            "docs.html",
            description=openapi.DESCRIPTION,
            tags=TAGS,
            operations=tuple(page.operations(self.settings["routes"], self.urls.base)),
            schemas=page.objects(),
            everywhere={
                str(status): openapi.PROBLEMS[status][0]
                for status in sorted(openapi.EVERYWHERE - {400})
            },
            prose=prose,
        )


class _Page:
    """What the template shows of one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths = document["paths"]
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]

    def operations(self, routes: Sequence[Route], base: str) -> Iterator[ObjectDict]:
        for route in routes:
            for operation in route.operations.values():
                yield self._operation(route, operation, base)

    def objects(self) -> Iterator[ObjectDict]:
        """The objects that answers and payloads are made of."""
        for name, schema in sorted(self._schemas.items()):
            if schema.get("type") == "object":
                description, rows = schema.get("description", ""), self._rows(schema)
                yield ObjectDict(name=name, description=description, rows=rows)

    def _operation(self, route: Route, operation: Operation, base: str) -> ObjectDict:
        path = document_path(route)
        item = self._paths[path]
        described = item[operation.method]
        parameters = [*item["parameters"], *described["parameters"]]
        body, answer = operation.body, operation.answer
        has_head = operation.method == "get" and "head" in item
        return ObjectDict(
            operation=operation,
            tag=route.tag,
            description=described["description"],
            methods=[operation.method, *(["head"] if has_head else [])],
            path=path,
            # Beside the one without the slash at its end.
            others=[one for one in spellings(route)[2:] if one.endswith("/")],
            parameters=[self._row(one["schema"], one) for one in parameters],
            body=[] if body is None else self._rows(self._schemas[body.__name__]),
            answers=list(_answers(described["responses"])),
            call=None if answer is None else _call(operation, base + path, parameters),
            example=self._schemas[answer.__name__]["examples"][0]
            if isinstance(answer, type)
            else None,
        )

    def _rows(self, schema: Mapping[str, Any]) -> list[ObjectDict]:
        """The keys of an object."""
        required = schema.get("required", ())
        return [
            self._row(
                inner,
                {
                    "name": name,
                    "required": name in required,
                    "description": inner.get("description", ""),
                    "example": ", ".join(str(_text(one)) for one in inner.get("examples", ())),
                },
            )
            for name, inner in schema.get("properties", {}).items()
        ]

    def _row(self, schema: Mapping[str, Any], described: Mapping[str, Any]) -> ObjectDict:
        """A parameter, or a key of an object."""
        # The name of the schema that the kind speaks of.
        kind, reference = self._kind(schema)
        default = _text(schema.get("default"))
        return ObjectDict(described, kind=kind, reference=reference, default=default)

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


def _answers(responses: Mapping[str, Any]) -> Iterator[ObjectDict]:
    for status, response in responses.items():
        if status == "304" or int(status) in openapi.EVERYWHERE - {400}:
            # Said once for all.
            continue
        if "$ref" in response:
            model = "PayloadProblem" if status == "400" else "ProblemDetails"
            description = openapi.PROBLEMS[int(status)][0]
            yield ObjectDict(status=status, description=description, media=PROBLEM, reference=model)
            continue
        content: Mapping[str, Any] = response.get("content") or {}
        named = next((value["schema"].get("$ref") for value in content.values()), None)
        yield ObjectDict(
            status=status,
            description=response["description"],
            media=", ".join(content),
            reference=named and named.rpartition("/")[2],
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
