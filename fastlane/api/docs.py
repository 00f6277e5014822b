"""``/openapi.json``, and ``/docs/``, the page on which people read it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastlane.api import openapi
from fastlane.api.base import BaseHandler
from fastlane.api.openapi import OPERATIONS, TAGS, Operation, document_path, schemas, spellings
from fastlane.api.pages import Page


class Document(BaseHandler):
    """``/openapi.json``"""

    async def get(self) -> None:
        document = openapi.document(self.services.version)
        await self.send_json({**document, "servers": [{"url": self.urls.base}]})


class Docs(Page):
    """``/docs/``"""

    async def get(self) -> None:
        self.send_page(
            "docs.html",
            version=self.services.version,
            description=openapi.DESCRIPTION,
            tags=TAGS,
            operations=tuple(_shown_operations(self.urls.base)),
            schemas=tuple(
                ShownSchema(name, schema.get("description", ""), tuple(_rows(schema)))
                for name, schema in sorted(schemas().items())
                if schema.get("type") == "object"
            ),
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


def _shown_operations(base: str) -> Iterator[ShownOperation]:
    document = openapi.document("")
    for operation in OPERATIONS:
        path = document_path(operation.path)
        item = document["paths"][path]
        described = item[operation.method]
        answer = next(
            (a for a in operation.answers.values() if a is not None and not isinstance(a, tuple)),
            None,
        )
        yield ShownOperation(
            operation,
            (operation.method, "head") if operation.has_head else (operation.method,),
            path,
            tuple(s for s in spellings(operation.path)[2:] if s.endswith("/")),
            tuple(
                _parameter(parameter["$ref"])
                for parameter in (*item.get("parameters", ()), *described.get("parameters", ()))
            ),
            () if operation.body is None else tuple(_rows(schemas()[operation.body.__name__])),
            tuple(_answers(described["responses"])),
            _call(operation, base + path),
            None
            if answer is None
            else json.dumps(
                schemas()[answer.__name__]["examples"][0], indent=2, ensure_ascii=False
            ),
        )


def _call(operation: Operation, url: str) -> str | None:
    if 101 in operation.answers:
        return None
    for name, parameter in openapi.PARAMETERS.items():
        if parameter["in"] == "path":
            url = url.replace(f"{{{name}}}", str(parameter["example"]))
    words = ["curl"]
    if operation.method != "get":
        words.append(f"-X {operation.method.upper()}")
    if operation.body is not None:
        words.append("""-d '{"image": "ubuntu:latest", "command": "ls -lah"}'""")
    query = "?query=hello" if operation.id == "searchTasks" else ""
    return " ".join([*words, url + query])


def _parameter(reference: str) -> Row:
    parameter = openapi.PARAMETERS[reference.rpartition("/")[2]]
    kind, named = _kind(parameter["schema"])
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


def _rows(schema: Mapping[str, Any]) -> Iterator[Row]:
    for name, inner in schema.get("properties", {}).items():
        kind, named = _kind(inner)
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


def _answers(responses: Mapping[str, Any]) -> Iterator[ShownAnswer]:
    for status, response in responses.items():
        if status == "304" or int(status) in openapi.EVERYWHERE - {400}:
            # Said once for all.
            continue
        if "$ref" in response:
            number = int(re.sub(r"\D", "", response["$ref"].rpartition("/")[2]))
            model = "PayloadProblem" if number == 400 else "ProblemDetails"
            yield ShownAnswer(status, openapi.PROBLEMS[number][0], openapi.PROBLEM, model)
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
    return None if value is None or value == {} else json.dumps(value, ensure_ascii=False)


_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {}",
}


def _kind(schema: Mapping[str, Any]) -> tuple[str, str | None]:
    """A schema's type in words, and the named schema in it if there is one."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = schemas()[name]
        if "enum" in target:
            return " · ".join(target["enum"]), None
        return name, name
    if "anyOf" in schema:
        arms = [_kind(arm) for arm in schema["anyOf"]]
        return " or ".join(kind for kind, _ in arms), next((name for _, name in arms if name), None)
    if "enum" in schema:
        return " · ".join(map(str, schema["enum"])), None
    kind, named = str(schema.get("type", "any")), None
    if kind == "array":
        inner, named = _kind(schema.get("items", {}))
        kind = f"list of {inner}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        inner, named = _kind(schema["additionalProperties"])
        kind = f"object of {inner}"
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    # Bounds of lengths are there to bound memory and would drown the rest.
    if kind != "string" and bounds and not kind.startswith(("list", "object")):
        kind = f"{kind} {', '.join(bounds)}"
    return kind, named


def prose(text: str) -> str:
    """*text* as HTML: what stands between backticks is code, an empty line ends a paragraph."""
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text.strip()))
    return "".join(f"<p>{part}</p>" for part in re.split(r"\n\s*\n", coded))
