"""Templates and assets: both are at the top of the repository, and read once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from types import FunctionType
from typing import Any

from tornado.escape import json_encode, url_escape, xhtml_escape
from tornado.template import DictLoader

from fastlane.api import texts

ASSET_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_IMPORT = re.compile(rb'(\b(?:from|import) "\./[\w-]+\.js)"')

# Nothing inline and nothing from other hosts, so that no text of a job can run as a script.
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def _read_assets() -> tuple[str, Mapping[str, bytes]]:
    """The version of all assets together, and each with the version in the URLs it imports."""
    bodies = {
        file.name: file.read_bytes()
        for file in files("fastlane.static").iterdir()
        if Path(file.name).suffix in ASSET_TYPES
    }
    digest = hashlib.sha256()
    for name in sorted(bodies):
        digest.update(name.encode() + bodies[name])
    version = digest.hexdigest()[:16]
    suffix = b'\\1?v=%s"' % version.encode()
    return version, {
        name: _IMPORT.sub(suffix, body) if name.endswith(".js") else body
        for name, body in bodies.items()
    }


ASSETS_VERSION, ASSETS = _read_assets()


def asset(name: str) -> str:
    """The URL of a file of ``static/``; the version in it makes it safe to cache for good."""
    if name not in ASSETS:
        raise KeyError(name)
    return f"/static/{name}?v={ASSETS_VERSION}"


class Templates:
    """All templates, compiled.

    Those whose name begins with ``_`` are macros: every template calls them by that name without
    the ``_``, with keywords, as in ``{% raw badge(status="done", reason=None) %}``.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        # The end of a macro's file is no space after what it makes.
        texts_of = {
            name: text.strip() if name[0] == "_" else text for name, text in sources.items()
        }
        self._loader = DictLoader(texts_of, autoescape="xhtml_escape")
        self._base: dict[str, Any] = {
            "escape": xhtml_escape,
            "xhtml_escape": xhtml_escape,
            "url_escape": url_escape,
            "json_encode": json_encode,
            "_tt_utf8": _utf8,
            "_tt_string_types": (str, bytes),
            "__name__": __name__,
            "asset": asset,
            "text": texts,
        }
        self._functions: dict[str, FunctionType] = {}
        for name in sources:
            template = self._loader.load(name)
            namespace: dict[str, Any] = {}
            exec(template.compiled, namespace)  # noqa: S102
            self._functions[name] = namespace["_tt_execute"]
            if name.startswith("_"):
                self._base[name[1:].removesuffix(".html")] = self._macro(name)

    def render(self, name: str, values: Mapping[str, Any]) -> bytes:
        """*name* with *values*, as UTF-8."""
        # A function of its own for each call: what a template sees are its globals.
        code = self._functions[name].__code__
        rendered: bytes = FunctionType(code, {**self._base, **values})()
        return rendered

    def _macro(self, name: str) -> Callable[..., bytes]:
        def macro(**values: Any) -> bytes:
            return self.render(name, values)

        return macro


def _utf8(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")


TEMPLATES = Templates(
    {
        file.name: file.read_text(encoding="utf-8")
        for file in files("fastlane.templates").iterdir()
        # Mail needs its styles inline, and has no part in these.
        if file.name.endswith(".html") and file.name != "email.html"
    }
)
