"""The example for nginx, behind a real one: addresses, scheme, and a log that is live."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.fastlane_server import ROOT, FastlaneServer
from tests.services import Server, missing

NAME = "fastlane.example.org"
# An attempt of several seconds would mean that nginx held the log back.
SECONDS = 10
AUTH = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/fastlane.conf;
}}
"""


class Nginx(Server):
    """nginx with ``deploy/nginx.conf``, in which only ports and files of certificates differ."""

    name = "nginx"

    def __init__(self, directory: Path, upstream_port: int) -> None:
        super().__init__(directory)
        self.program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if self.program is None:
            missing("nginx", "the program is not on the path")
        directory.mkdir()
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert(NAME)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "pem"))
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        for ours, theirs in (
            ("127.0.0.1:10000", f"127.0.0.1:{upstream_port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/etc/ssl/fastlane.pem", f"{directory}/pem"),
            ("/etc/ssl/private/fastlane.key", f"{directory}/pem"),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        (directory / "fastlane.conf").write_text(text)
        (directory / "nginx.conf").write_text(NGINX.format(directory=directory))

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    def command(self) -> list[str]:
        assert self.program is not None
        return [self.program, "-c", str(self.directory / "nginx.conf"), "-e", "stderr"]

    def ping(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    server = FastlaneServer(
        directory / "fastlane",
        EXECUTOR="process",
        BASIC_AUTH_USER="ann",
        BASIC_AUTH_PASSWORD="secret",
        TRUSTED_PROXIES="127.0.0.1",
        PUBLIC_URL=f"https://{NAME}",
    )
    with server, Nginx(directory / "nginx", server.port) as proxy:
        yield proxy


class Resolver(aiohttp.abc.AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None:
        pass


async def test_a_job_and_its_live_log_behind_nginx(nginx: Nginx) -> None:
    context = ssl.create_default_context()
    nginx.authority.configure_trust(context)
    connector = aiohttp.TCPConnector(resolver=Resolver(), ssl=context)
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession(connector=connector) as client:
        async with client.get(f"{nginx.url}/tasks/") as refused:
            assert refused.status == 401
        job = {"image": "none:1", "command": ["sh", "-c", "echo first; sleep 60"]}
        headers = {**AUTH, "X-Forwarded-For": "203.0.113.9"}
        url = f"{nginx.url}/tasks/proxied/"
        async with client.post(url, data=json.dumps(job), headers=headers) as answer:
            submitted = await answer.json()
        assert submitted["jobUrl"].startswith(f"{nginx.url}/tasks/proxied/jobs/")
        # It arrives while the job runs.
        assert await first_frame(client, f"{submitted['executionUrl']}ws/") == "first\n"
        async with client.post(f"{submitted['jobUrl']}stop/", headers=AUTH) as stopped:
            assert stopped.status == 200
        async with client.get(submitted["jobUrl"], headers=AUTH) as answer:
            details = (await answer.json())["job"]
        # nginx's own address is trusted, so the client is the one before it.
        assert details["requestIPAddress"] == "203.0.113.9"


async def first_frame(client: aiohttp.ClientSession, url: str) -> str:
    """The first text of a log; the socket says ``retry`` until the job has started."""
    while True:
        async with client.ws_connect(url, headers=AUTH) as log:
            message = await log.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                return str(message.data)
            assert (message.data, message.extra) == (1000, "retry")
