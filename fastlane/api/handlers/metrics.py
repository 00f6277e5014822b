"""What Prometheus asks for."""

from __future__ import annotations

from fastlane.api.base import BaseHandler

MEDIA = ("text/plain", "application/openmetrics-text")


class Metrics(BaseHandler):
    """``/metrics``"""

    async def get(self) -> None:
        """Metrics as Prometheus text, or as OpenMetrics where `Accept` asks for it.

        Counters and histograms are of the instance that answers; gauges are of all of them.
        """
        accept = self.request.headers.get("Accept", "")
        text, media_type = await self.services.metrics.scrape(accept)
        self.set_header("Content-Type", media_type)
        self.set_header("Cache-Control", "no-store")
        self.finish(text)
