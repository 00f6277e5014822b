"""Servers that refuse, are busy, restart, are unreachable or cannot be trusted."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from tests.cli.conftest import Cli
from tests.fastlane_server import FastlaneServer

_STATUS = {
    **{"version": "0.1.0", "backend": "sqlite", "executor": "process", "farms": [], "hosts": []},
    **{"containers": {}, "jobs": {}, "queues": {}, "tasks": {}},
}


@contextmanager
def stand_in(
    *answers: tuple[int, dict[str, str]], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The URL of a server that answers so, one after the other, and then well."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers = left.pop(0) if left else (200, {})
            problem = {"title": "Refused", "detail": "This is why."}
            body = json.dumps(_STATUS if status == 200 else problem).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The test says what it wants to know."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_a_busy_server_is_asked_again(cli: Cli) -> None:
    with stand_in((429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})) as url:
        assert cli("status", FASTLANE_URL=url).code == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_said_with_its_reason(cli: Cli, status: int) -> None:
    with stand_in((status, {})) as url:
        ended = cli("status", FASTLANE_URL=url)
    assert (ended.code, ended.out) == (1, "")
    first, *more = ended.err.splitlines()
    assert first == f"fastlane: {url}/status/ answers {status}: This is why."
    assert bool(more) == (status == 401)


def test_credentials_are_sent_and_not_shown(cli: Cli, tmp_path: Path) -> None:
    options = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASSWORD": "secret"}
    with FastlaneServer(tmp_path, EXECUTOR="process", **options) as closed:
        refused = cli("status", FASTLANE_URL=closed.url)
        assert refused.code == 1
        assert "answers 401" in refused.err
        wrong = closed.url.replace("://", "://ann:wrong-one@")
        assert "wrong-one" not in cli("status", FASTLANE_URL=wrong).err
        right = closed.url.replace("://", "://ann:secret@")
        ended = cli("status", FASTLANE_URL=right)
        assert ended.code == 0
        assert "secret" not in ended.out + ended.err


def test_nobody_listens(cli: Cli) -> None:
    ended = cli("ps", FASTLANE_URL="http://127.0.0.1:9")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(
        "fastlane: http://127.0.0.1:9 cannot be reached (Connection refused): "
    )


def test_a_certificate_has_to_be_trusted(cli: Cli, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    with stand_in(tls=tls) as url:
        ended = cli("status", FASTLANE_URL=url)
        assert ended.code == 1
        assert "its certificate is not trusted" in ended.err
        assert cli("status", FASTLANE_URL=url, SSL_CERT_FILE=str(trusted)).code == 0
        assert cli("context", "create", "own", "--url", url, "--ca", str(trusted)).code == 0
        assert cli("status", FASTLANE_URL="").code == 0


def test_a_redirect_is_not_followed(cli: Cli) -> None:
    with stand_in((302, {"Location": "http://127.0.0.1:9/"})) as url:
        ended = cli("status", FASTLANE_URL=url.replace("://", "://ann:secret@"))
    assert ended.code == 1
    assert "redirects to http://127.0.0.1" in ended.err
