"""Holds answers of a live server against the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from fastlane.api.openapi import document
from fastlane.api.routes import ROUTES

DOCUMENT = document("0.0.0", ROUTES)


class Contract:
    """Checks answers and remembers which of the documented ones it has seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        """Operation id and status."""
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(spelling))), item)
            for item in DOCUMENT["paths"].values()
            for spelling in item["x-fastlane-spellings"]
        ]

    def check(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """:raises AssertionError: the document does not say that this may be answered.

        :param path: as it was asked for, with or without its query.
        """
        where = f"{method} {path} → {status}"
        item = self._item(path)
        operation = None if item is None else item.get(method.lower())
        if operation is None:
            # The document says of routes and methods that are not in it: 404 and 405.
            expected = 404 if item is None else 405
            assert status in {expected, 400, 401, 403, 421}, where
            response = resolved({"$ref": f"#/components/responses/Problem{status}"})
        else:
            assert str(status) in operation["responses"], f"{where} is not in the document"
            response = resolved(operation["responses"][str(status)])
            self.seen.add((operation["operationId"], status))
        self._check_headers(where, response, headers)
        self._check_body(where, method, response, headers, body)

    def _item(self, path: str) -> Mapping[str, Any] | None:
        plain = path.partition("?")[0]
        return next((item for pattern, item in self._paths if pattern.fullmatch(plain)), None)

    @staticmethod
    def _check_headers(where: str, response: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        given = {name.lower() for name in headers}
        for name, header in response.get("headers", {}).items():
            if resolved(header).get("required"):
                assert name.lower() in given, f"{where} has no {name}"

    @staticmethod
    def _check_body(
        where: str,
        method: str,
        response: Mapping[str, Any],
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        content = response.get("content")
        if content is None or method.upper() == "HEAD":
            assert body == b"", f"{where} has a body"
            return
        given = {name.lower(): value for name, value in headers.items()}
        media = given["content-type"].partition(";")[0]
        assert media in content, f"{where} is {media}"
        if media.endswith("json"):
            assert given["cache-control"] == "no-store", f"{where} may be kept in a cache"
            validate(json.loads(body), content[media]["schema"], where)


def resolved(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """*value*, or what its reference points to."""
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, Mapping)
    return found


def validate(value: Any, schema: Mapping[str, Any], where: str) -> None:
    """:raises AssertionError: *value* is not what *schema* of the document says."""
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not errors, f"{where}: {errors[:5]}"
