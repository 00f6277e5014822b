"""Pages for people, their assets, and ``…/stream/``, the page that shows a log."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from tornado.template import DictLoader

from fastlane.api.base import BaseHandler
from fastlane.api.lookup import find_log
from fastlane.errors import NotFound

# Templates and assets are at the top of the repository; setup.py makes packages of them.
_TEMPLATES = DictLoader(
    {
        file.name: file.read_text(encoding="utf-8")
        for file in files("fastlane.templates").iterdir()
        if file.name.endswith(".html")
    },
    autoescape="xhtml_escape",
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Read once: they are part of the release, and a few kilobytes.
_ASSETS = {
    file.name: file.read_bytes()
    for file in files("fastlane.static").iterdir()
    if Path(file.name).suffix in _TYPES
}
_VERSIONS = {name: hashlib.sha256(body).hexdigest()[:16] for name, body in _ASSETS.items()}
ASSET_URLS = {name: f"/static/{name}?v={version}" for name, version in _VERSIONS.items()}
"""The URL of each asset; its version makes it safe to cache for good."""

# Nothing inline and nothing from other origins, so that no log can run as a script.
_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class Page(BaseHandler):
    """The base of all pages."""

    def send_page(self, template: str, **values: object) -> None:
        """Send *template*, with a policy that allows only our own assets."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-cache")
        self.finish(_TEMPLATES.load(template).generate(assets=ASSET_URLS, **values))


class StreamPage(Page):
    """The log of an execution, or of a job's last one, in a browser."""

    async def get(self, task_id: str, job_id: str, execution_id: str | None = None) -> None:
        """A page on which a person follows the log in a browser."""
        await find_log(self.services.storage, task_id, job_id, execution_id)
        task_path = f"/tasks/{quote(task_id, safe='')}"
        job_path = f"{task_path}/jobs/{job_id}"
        self.send_page(
            "stream.html",
            task_id=task_id,
            job_id=job_id,
            execution_id=execution_id,
            task_path=task_path,
            job_path=job_path,
            base_path=f"{job_path}/executions/{execution_id}" if execution_id else job_path,
            download_name=re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task_id}-{job_id}"),
        )


class Asset(BaseHandler):
    """A file of ``static/``."""

    async def get(self, name: str) -> None:
        """Style sheets, scripts and pictures of the pages."""
        body = _ASSETS.get(name)
        if body is None:
            raise NotFound(f'There is no file "{name}".')
        versioned = self.get_query_argument("v", "") == _VERSIONS[name]
        self.set_header("Content-Type", _TYPES[Path(name).suffix])
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header(
            "Cache-Control", "private, max-age=31536000, immutable" if versioned else "no-cache"
        )
        self.finish(body)
