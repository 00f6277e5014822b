"""What depends on several options: the default farm, and who may use an executor unisolated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from pydantic import ValidationInfo

from fastlane.checks import is_loopback
from fastlane.executors import registry
from fastlane.executors.base import Settings
from fastlane.model import Farm


class OtherOption(ValueError):
    """A fault that is found while one option is read, but is another's."""

    def __init__(self, option: str, value: str, message: str) -> None:
        super().__init__(message)
        self.option = option
        self.value = value


def require_isolation(executor: str, info: ValidationInfo, named: str) -> None:
    """:raises ValueError: other machines could run commands on this one."""
    host = info.data.get("host")
    forced = info.data.get("force_process_executor", True)
    if forced or host is None or is_loopback(host):
        return
    if not registry.factory(executor).capabilities.isolated:
        raise ValueError(
            f'{named} has no isolation, and HOST="{host}" lets other machines run commands here; '
            "listen on 127.0.0.1, use another executor, or set FORCE_PROCESS_EXECUTOR=true"
        )


def default_farm(executor: str, max_running: int, info: ValidationInfo) -> Farm:
    """The farm of a server whose options name none.

    :raises OtherOption: the option that names its host is malformed.
    """
    factory = registry.factory(executor)
    host, option = factory.default_host(cast(Settings, SimpleNamespace(**info.data)))
    try:
        factory.check_host(host)
    except ValueError as error:
        raise OtherOption(option or "executor", host, str(error)) from error
    return Farm("default", (host,), max_running, executor=executor, options=factory.options())
