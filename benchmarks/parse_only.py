"""``python -m benchmarks.parse_only PORT``: reads a POST's JSON and answers as fastlane would.

Nothing is checked and nothing is kept: what Tornado itself costs on this machine.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid

import tornado.web
import ujson
import uvloop


class Health(tornado.web.RequestHandler):
    def get(self) -> None:
        self.finish({"errors": []})


class Submit(tornado.web.RequestHandler):
    def post(self, task: str) -> None:
        payload = ujson.loads(self.request.body)
        base = f"{self.request.protocol}://{self.request.host}/tasks/{task}"
        job = str(uuid.uuid4())
        self.set_header("Content-Type", "application/json")
        self.finish(
            ujson.dumps(
                {
                    "taskId": task,
                    "taskUrl": base,
                    "jobId": job,
                    "jobUrl": f"{base}/jobs/{job}",
                    "queueJobId": str(uuid.uuid4()),
                    "executionId": None,
                    "executionUrl": None,
                    # The payload must have been read for this.
                    "image": payload["image"],
                }
            )
        )


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    routes = [(r"/healthcheck/?", Health), (r"/tasks/([^/]+)/?", Submit)]
    # As in fastlane, requests are not logged.
    app = tornado.web.Application(routes, log_function=lambda handler: None)
    app.listen(port, "127.0.0.1")
    await ended.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
