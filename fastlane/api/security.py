"""Who sent a request, and whether it is answered.

All of it is decided from the head of the request, before its body is read: first the credentials
and the role that the route requires, then the host, then the origin. Handlers find the result in
``handler.caller`` and never see credentials.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, HTTPServerRequest

from fastlane.api.problems import Problem
from fastlane.api.sign_ins import FailedSignIns
from fastlane.checks import shown
from fastlane.config import Config, is_loopback

# What a Host header may be: a name or an address, and a port.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_PORT = re.compile(r":[0-9]+$")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_EXPOSED = (
    "X-Request-ID, Fastlane-Exit-Code, Fastlane-Reason, Fastlane-Status, Preference-Applied, "
    "Retry-After"
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, Idempotency-Key, Prefer, X-Request-ID"
    ),
    "Access-Control-Max-Age": "600",
}


class Role(IntEnum):
    """What a principal may do. Each role includes those before it."""

    ANONYMOUS = 0
    VIEWER = 1
    """Reads tasks, jobs, executions, logs and pages."""
    SUBMITTER = 2
    """Also submits, stops and retries."""
    OPERATOR = 3
    """Also drains hosts and requeues notifications."""
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose requests are answered."""

    name: str
    role: Role


ANONYMOUS = Principal("anonymous", Role.ANONYMOUS)
LOCAL = Principal("local", Role.ADMIN)
"""Everybody, on a server without credentials."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    principal: Principal
    scheme: str
    host: str
    """Host and port under which the sender knows the server."""
    address: str
    """The sender's IP address."""

    @property
    def share(self) -> str:
        """Whose share of a bound a request takes: of who signed in, or else of an address."""
        if self.principal is ANONYMOUS or self.principal is LOCAL:
            return f"address {self.address}"
        return f"user {self.principal.name}"


class SignInFailed(Problem):
    """There are credentials, and they are wrong."""


class Authenticator(ABC):
    """Finds the principal of a request."""

    challenge: str
    """The ``WWW-Authenticate`` of a 401."""
    remedy: str
    """What to send, in a sentence."""

    @abstractmethod
    def authenticate(self, headers: HTTPHeaders) -> Principal:
        """The principal; :data:`ANONYMOUS` where credentials are missing or wrong."""


class OpenAuthenticator(Authenticator):
    """Needs no credentials: everyone who can reach the server is an admin."""

    challenge = remedy = ""

    def authenticate(self, headers: HTTPHeaders) -> Principal:
        return LOCAL


class BasicAuthenticator(Authenticator):
    """HTTP Basic authentication (RFC 7617) with the one user of the configuration, an admin."""

    challenge = 'Basic realm="fastlane", charset="UTF-8"'
    remedy = "Send the user name and the password with HTTP Basic authentication."

    def __init__(self, user: str, password: str) -> None:
        self._principal = Principal(user, Role.ADMIN)
        self._expected = f"{user}:{password}".encode()

    def authenticate(self, headers: HTTPHeaders) -> Principal:
        scheme, _, encoded = headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        # Constant in time, so that nothing can be learnt by measuring.
        if hmac.compare_digest(given, self._expected) and scheme.lower() == "basic":
            return self._principal
        return ANONYMOUS


def make_authenticator(config: Config) -> Authenticator:
    """The authenticator that *config* asks for."""
    if not config.basic_auth_user:
        return OpenAuthenticator()
    return BasicAuthenticator(config.basic_auth_user, config.basic_auth_password.get_secret_value())


class Security:
    """The checks on the head of each request."""

    def __init__(self, config: Config, authenticator: Authenticator | None = None) -> None:
        """:param authenticator: in place of the one that *config* asks for (tests)."""
        self._authenticator = authenticator or make_authenticator(config)
        self.failed_sign_ins = FailedSignIns()
        self._proxies = config.trusted_proxies
        self._origins = config.cors_origins
        self._allowed_hosts = config.allowed_hosts
        public = urlsplit(config.public_url).hostname or ""
        self._names = frozenset({"localhost", public, *config.allowed_hosts} - {""})
        self._checks_hosts = bool(
            config.allowed_hosts or config.auth == "none" or is_loopback(config.host)
        )

    def caller(self, request: HTTPServerRequest) -> Caller:
        """The sender of *request*, whether or not it may be answered."""
        principal = self._authenticator.authenticate(request.headers)
        scheme, host, address = request.protocol, request.host, request.remote_ip or ""
        if not self._is_proxy(address):
            return Caller(principal, scheme, host, address)
        forwarded = _first(request.headers, "X-Forwarded-Proto").lower()
        if forwarded in {"http", "https"}:
            scheme = forwarded
        forwarded = _first(request.headers, "X-Forwarded-Host")
        if _HOST.fullmatch(forwarded):
            host = forwarded
        return Caller(principal, scheme, host, self._forwarded_for(request.headers, address))

    def check(
        self, request: HTTPServerRequest, caller: Caller, required: Role, *, any_host: bool
    ) -> None:
        """Counts a failed sign-in.

        :raises Problem: *request* must not be answered; the problem is the answer.
        :raises SignInFailed: as a problem; its answer is to be delayed.
        """
        if not self._is_preflight(request):
            self._check_role(request, caller, required)
        self._check_host(request, caller, any_host=any_host)
        self._check_origin(request, caller)

    def cors_headers(self, request: HTTPServerRequest) -> Mapping[str, str]:
        """The headers that let pages of configured origins read the answer (Fetch, CORS)."""
        origin = request.headers.get("Origin")
        if not self._origins:
            return {}
        if origin is None or not self._is_cors_origin(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            **(_PREFLIGHT if request.method == "OPTIONS" else {}),
        }

    def _forwarded_for(self, headers: HTTPHeaders, peer: str) -> str:
        """The last address that none of our proxies has added itself."""
        chain = [part.strip() for part in headers.get("X-Forwarded-For", "").split(",")]
        for address in reversed([part for part in chain if part]):
            if not _is_address(address):
                return peer
            peer = address
            if not self._is_proxy(address):
                return peer
        real = headers.get("X-Real-Ip", "").strip()
        return real if not any(chain) and _is_address(real) else peer

    def _is_proxy(self, address: str) -> bool:
        # Usually there is none, and no address is parsed.
        if not self._proxies or not _is_address(address):
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._proxies)

    def _check_role(self, request: HTTPServerRequest, caller: Caller, required: Role) -> None:
        principal = caller.principal
        if principal.role >= required:
            return
        if principal.role is Role.ANONYMOUS:
            challenge = {"WWW-Authenticate": self._authenticator.challenge}
            if "Authorization" not in request.headers:
                raise Problem(401, self._authenticator.remedy, headers=challenge)
            self.failed_sign_ins.add(caller.address)
            raise SignInFailed(401, self._authenticator.remedy, headers=challenge)
        raise Problem(
            403,
            f"{shown(principal.name)} has the role {principal.role.name.lower()}; "
            f"this needs {required.name.lower()}.",
        )

    def _check_host(self, request: HTTPServerRequest, caller: Caller, *, any_host: bool) -> None:
        for host in (request.host, caller.host):
            if not _HOST.fullmatch(host):
                raise Problem(400, f"Host {shown(host)} is not a host name with or without port.")
        if any_host or not self._checks_hosts:
            return
        # A page that has its own name point to this server (DNS rebinding) is of one origin with
        # it, and is recognised by that name alone. What a proxy forwards is no protection.
        hosts = {request.host, caller.host} if self._allowed_hosts else {request.host}
        for host in hosts:
            if not self._is_own_host(host.lower()):
                raise Problem(
                    421,
                    f"Host {shown(host)} is not allowed. Use localhost or an IP address, or add "
                    "the name to ALLOWED_HOSTS.",
                )

    def _is_own_host(self, host: str) -> bool:
        name = _PORT.sub("", host)
        return name in self._names or host in self._names or _is_address(name.strip("[]"))

    def _is_preflight(self, request: HTTPServerRequest) -> bool:
        """Whether a browser asks, without credentials, if it may send a request (Fetch, CORS)."""
        origin = request.headers.get("Origin")
        return (
            request.method == "OPTIONS"
            and origin is not None
            and "Access-Control-Request-Method" in request.headers
            and self._is_cors_origin(origin)
        )

    def _check_origin(self, request: HTTPServerRequest, caller: Caller) -> None:
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if request.method in _SAFE_METHODS and not is_socket:
            return
        origin = request.headers.get("Origin")
        if origin is not None and self._is_cors_origin(origin):
            return
        # No page can set Sec-Fetch-Site: the browser has compared the origins itself, also in
        # front of a proxy that ends TLS and is not trusted.
        site = request.headers.get("Sec-Fetch-Site")
        if site == "same-origin":
            return
        if site not in {None, "none"}:
            raise Problem(403, f"Requests from another origin ({shown(site)}) are refused.")
        if origin is not None and (origin.lower() != f"{caller.scheme}://{caller.host}".lower()):
            raise Problem(403, f"Requests from origin {shown(origin)} are refused.")

    def _is_cors_origin(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins


def _first(headers: HTTPHeaders, name: str) -> str:
    return headers.get(name, "").split(",")[0].strip()


@lru_cache(256)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
