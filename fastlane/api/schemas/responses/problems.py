"""Answers to requests that are refused (RFC 9457)."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field

from fastlane.api.schemas.responses.base import Answer


class PayloadFault(Answer):
    """One thing that is wrong with a payload."""

    pointer: Annotated[str, Field(examples=["/cron"])]
    """RFC 6901 JSON pointer. "" is the whole payload."""
    message: Annotated[str, Field(examples=["retries is -1; it must be at least 0."])]
    """What is wrong, with which value, and what to do."""


class ProblemDetails(Answer):
    """An error in the form of RFC 9457."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Bad Request"])]
    status: Annotated[int, Field(ge=400, le=599, examples=[400])]
    detail: Annotated[str, Field(examples=["The payload has 1 error."])]
    requestId: Annotated[str, Field(examples=["0d7c9a43-5cbb-4f28-9d0e-6e2f2b8dbb1c"])]
    """Also in every log line of the request."""


class PayloadProblem(ProblemDetails):
    """An error that may list everything that is wrong with a payload."""

    errors: NotRequired[list[PayloadFault]]
    """Only for payloads."""
