"""The base of all pages: a template around fragments, each of which can be asked for alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from fastlane.api.base import BaseHandler
from fastlane.api.problems import Problem
from fastlane.api.rendering import TEMPLATES
from fastlane.checks import shown

Values = Mapping[str, Any]
"""What a template is given."""


class Page(BaseHandler):
    """A page. ``?fragment=NAME`` answers with that part of it as it is now."""

    checks_query = False
    template: ClassVar[str]
    """Without ``.html``."""
    fragments: ClassVar[Mapping[str, Callable[..., Awaitable[Values]]]] = {}
    """Loads what a fragment shows, from the page and the ids of its path. The template of fragment
    ``x`` of page ``p`` is ``p-x.html``."""

    async def get(self, *ids: str | None) -> None:
        """A page for people."""
        name = self.get_query_argument("fragment", None)
        if name is None:
            values = await self.frame(*ids)
            parts = {one: await self._fragment(one, *ids) for one in self.fragments}
            await self.send_page(f"{self.template}.html", **values, fragments=parts)
        elif name in self.fragments:
            await self.send_html(await self._fragment(name, *ids))
        else:
            raise Problem(404, f"This page has no fragment {shown(name)}.")

    async def frame(self, *ids: str | None) -> Values:
        """What the page shows outside of its fragments."""
        return {}

    async def send_page(self, template: str, **values: Any) -> None:
        """Answer with *template*."""
        await self.send_html(TEMPLATES.render(template, {**self.around(), **values}))

    async def _fragment(self, name: str, *ids: str | None) -> bytes:
        async def make() -> bytes:
            values = await self.fragments[name](self, *ids)
            return TEMPLATES.render(f"{self.template}-{name}.html", {**self.around(), **values})

        # What the query gives to the fragment, and what the principal may see and do.
        query = tuple(
            sorted(
                (k, tuple(v))
                for k, v in self.request.query_arguments.items()
                if k not in ("fragment", "as") and not k.startswith("_")
            )
        )
        key = (type(self), name, ids, query, self.principal.role, self.caller.host)
        return await self.services.renders.get(key, make)
