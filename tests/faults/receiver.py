"""A receiver of webhooks that outlives the server."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Counts webhooks in a thread of its own, so that it outlives the server."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.ids: Counter[str] = Counter()
        self.by_id: dict[str, dict[str, Any]] = {}
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    self.bodies.append(body)
                    self.by_id[handler.headers["webhook-id"]] = body
                    self.ids[handler.headers["webhook-id"]] += 1
                handler.send_response(204)
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
