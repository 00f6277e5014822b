"""The base of all pages: a template around fragments, each of which can be asked for alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from fastlane.api.base import BaseHandler
from fastlane.api.problems import Problem
from fastlane.api.rendering import TEMPLATES
from fastlane.api.urls import Urls
from fastlane.checks import shown

Values = Mapping[str, Any]
"""What a template is given."""


class Page(BaseHandler):
    """A page. ``?fragment=NAME``, also of several, answers with these parts as they are now."""

    checks_query = False
    template: ClassVar[str]
    """Without ``.html``."""
    fragments: ClassVar[Mapping[str, Callable[..., Awaitable[Values]]]] = {}
    """Loads what a fragment shows, from the page and the ids of its path. The template of fragment
    ``x`` of page ``p`` is ``p-x.html``."""

    @property
    def urls(self) -> Urls:
        """Pages link to paths, whatever the name of the server."""
        return Urls("")

    async def get(self, *ids: str | None) -> None:
        """A page for people."""
        names = self.get_query_arguments("fragment")
        if not names:
            values = await self.frame(*ids)
            parts = {name: await self._fragment(name, *ids) for name in self.fragments}
            await self.send_page(f"{self.template}.html", **values, fragments=parts)
            return
        unknown = next((name for name in names if name not in self.fragments), None)
        if unknown is not None:
            raise Problem(404, f"This page has no fragment {shown(unknown)}.")
        found = [
            b'<div data-part="%s">%s</div>'
            % (name.encode(), await self._fragment(name, *ids, after_now=True))
            for name in dict.fromkeys(names)
        ]
        await self.send_html(b"".join(found))

    async def frame(self, *ids: str | None) -> Values:
        """What the page shows outside of its fragments."""
        return {}

    async def send_page(self, template: str, **values: Any) -> None:
        """Answer with *template*."""
        await self.send_html(TEMPLATES.render(template, {**self.around(), **values}))

    async def _fragment(self, name: str, *ids: str | None, after_now: bool = False) -> bytes:
        async def make() -> bytes:
            values = await self.fragments[name](self, *ids)
            return TEMPLATES.render(f"{self.template}-{name}.html", {**self.around(), **values})

        # All on which it may depend: the query, and what the principal may see and do.
        query = tuple(
            sorted(
                (key, tuple(given))
                for key, given in self.request.query_arguments.items()
                if key not in ("fragment", "as") and not key.startswith("_")
            )
        )
        key = (type(self), name, ids, query, self.principal.role, self.caller.host)
        return await self.services.renders.get(key, make, after_now=after_now)
