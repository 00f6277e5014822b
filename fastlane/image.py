"""References of images: their grammar, and what a reference without a tag or a registry means."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

DEFAULT_TAG = "latest"
DEFAULT_REGISTRY = "docker.io"
"""Where images are that name no registry."""

# The grammar of https://github.com/distribution/reference (reference.go, regexp.go).
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:(?P<domain>{_DOMAIN})/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
# Bounds what the pattern above is run on; the reference grammar itself allows 255 for the name.
_REFERENCE_MAX_CHARS = 512
_NAME_MAX_CHARS = 255


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image as the submitter named it, parsed once.

    Source: the reference grammar of the distribution project.
    """

    name: str
    """``registry:5000/a/b``: everything before tag and digest."""
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Split *text*.

        :raises ValueError: it is not an image reference; the message says so in one sentence.
        """
        match = _REFERENCE.fullmatch(text) if len(text) <= _REFERENCE_MAX_CHARS else None
        if match is None or len(match["name"]) > _NAME_MAX_CHARS:
            raise ValueError(
                f"{json.dumps(text[:100])} is not an image reference; write it as name, name:tag, "
                "registry:5000/name:tag or name@sha256:<digest>"
            )
        return cls(match["name"], match["tag"], match["digest"])

    @classmethod
    def is_registry(cls, text: str) -> bool:
        """Whether *text* is a registry as references name it, such as ``registry:5000``."""
        try:
            return cls.parse(f"{text}/x").registry == text
        except ValueError:
            return False

    @property
    def registry(self) -> str:
        """The registry's host (``docker.io`` when the reference names none).

        The first component is a host only when it holds a dot, a colon or a capital, or is
        ``localhost``. Source: splitDockerDomain in the distribution project's normalize.go.
        """
        return self._split[0]

    @property
    def path(self) -> str:
        """What the registry calls the image: ``library/busybox`` for ``busybox``."""
        registry, path = self._split
        return f"library/{path}" if registry == DEFAULT_REGISTRY and "/" not in path else path

    @property
    def _split(self) -> tuple[str, str]:
        first, slash, rest = self.name.partition("/")
        is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
        if not slash or not is_host:
            return DEFAULT_REGISTRY, self.name
        return (DEFAULT_REGISTRY if first.lower() == f"index.{DEFAULT_REGISTRY}" else first), rest

    @property
    def familiar_name(self) -> str:
        """The shortest name of the image: ``busybox`` for ``docker.io/library/busybox``."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        name = self.path.removeprefix("library/")
        return self.path if "/" in name else name

    @property
    def is_id(self) -> bool:
        """Whether it is the id of an image on a host, whole or shortened, rather than a name."""
        return (
            self.familiar_name in {"sha256", "sha384", "sha512"}
            and self.tag is not None
            and re.fullmatch("[0-9a-f]+", self.tag) is not None
        )

    @property
    def pinned_tag(self) -> str | None:
        """The tag to ask for: none beside a digest, ``latest`` when neither is given."""
        if self.digest is not None:
            return self.tag
        return self.tag or DEFAULT_TAG

    @property
    def submitted(self) -> str:
        """The text that was submitted."""
        return self._text(self.tag)

    def __str__(self) -> str:
        """The exact reference to run, with the tag spelled out."""
        return self._text(self.pinned_tag)

    @property
    def version(self) -> str:
        """The end of the exact reference: ``:1``, ``@sha256:…``, or both."""
        return str(self)[len(self.name) :]

    def _text(self, tag: str | None) -> str:
        text = self.name if tag is None else f"{self.name}:{tag}"
        return text if self.digest is None else f"{text}@{self.digest}"
