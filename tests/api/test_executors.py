"""An executor that nothing else knows: registered here, it runs a job through a whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import Field

from fastlane.config import load, options, warnings
from fastlane.errors import ConfigError
from fastlane.executors import registry
from fastlane.executors.base import (
    Capabilities,
    Executor,
    ExecutorFactory,
    FarmOptions,
    RunSpec,
    Settings,
)
from fastlane.executors.registry import Executors
from fastlane.model import Farm
from fastlane.server import Server
from tests.api.http_site import PAYLOAD, Site
from tests.eventually import eventually
from tests.fakes import MemoryExecutor


class LunarOptions(FarmOptions):
    base_name: str = Field(default="", description="the name of a base")


class LunarExecutor(MemoryExecutor):
    name = "lunar"

    def __init__(self, farms: Sequence[Farm]) -> None:
        super().__init__(instant=True)
        self.farms = farms
        self.installation = ""
        self.hosts: list[str] = []

    async def open(self, installation: str) -> None:
        self.installation = installation

    async def create(self, host: str, spec: RunSpec) -> str:
        assert isinstance(spec.options, LunarOptions)
        self.hosts.append(f"{host} {spec.options.base_name}")
        return await super().create(host, spec)


class LunarFactory(ExecutorFactory):
    name = "lunar"
    schemes = frozenset({"fake"})
    capabilities = Capabilities(limits=frozenset())
    options = LunarOptions

    def __init__(self) -> None:
        self.made: list[LunarExecutor] = []

    def default_host(self, settings: Settings) -> tuple[str, str | None]:
        return "fake://moon", None

    def check_host(self, host: str, options: FarmOptions | None = None) -> None:
        if "cheese" in host:
            raise ValueError("the moon is not made of cheese")

    def make(self, settings: Settings, farms: Sequence[Farm]) -> Executor:
        self.made.append(LunarExecutor(farms))
        return self.made[-1]


@pytest.fixture
def lunar() -> Iterator[LunarFactory]:
    factory = LunarFactory()
    registry.register(factory)
    yield factory
    registry.unregister(factory.name)


def environ(data_dir: Path, *farms: Mapping[str, object]) -> dict[str, str]:
    return {"DATA_DIR": str(data_dir), "PORT": "0", "DOCKER_HOSTS": json.dumps(farms)}


async def test_a_job_on_a_new_executor(lunar: LunarFactory, tmp_path: Path) -> None:
    farm = {"hosts": ["fake://moon"], "baseName": "tranquility", "limits": {"cpus": 1}}
    config = load(environ=environ(tmp_path, farm))
    assert warnings(config) == [
        'Farm "default" limits cpus, which the lunar executor does not enforce.'
    ]
    server = Server(config)
    (executor,) = lunar.made
    await server.start()
    site = Site(server, executor)
    try:
        answer = (await site.post("/tasks/t/", PAYLOAD)).json
        run = await executor.started(answer["executionId"])

        async def done() -> bool:
            found = (await site.get(answer["executionUrl"])).json["execution"]
            return bool(found["status"] == "done")

        await eventually(done, "the end of the job")
    finally:
        await site.close()
    assert run.spec.task_id == "t"
    assert executor.hosts == ["fake://moon tranquility"]
    assert executor.installation == (tmp_path / "installation").read_text()
    assert [each.executor for each in executor.farms] == ["lunar"]


def test_its_own_keys_and_hosts_are_checked(lunar: LunarFactory, tmp_path: Path) -> None:
    for farm, says in (
        ({"hosts": ["fake://cheese"]}, "in farm 1, the moon is not made of cheese"),
        ({"hosts": ["fake://moon"], "baseName": 1}, "baseName must be the name of a base"),
        ({"hosts": ["fake://moon"], "tls": "/x"}, '"tls" is not a known key'),
        ({"hosts": ["a:1"], "baseName": "x"}, '"baseName" is not a known key'),
    ):
        with pytest.raises(ConfigError) as refused:
            load(environ=environ(tmp_path, farm))
        assert says in str(refused.value)
    config = load(environ={"EXECUTOR": "lunar"})
    assert config.docker_hosts[0].hosts == ("fake://moon",)
    # What is listed is read back as the same farm.
    farm = {"hosts": ["fake://moon"], "baseName": "x"}
    config = load(environ=environ(tmp_path, farm))
    listed = {option.name: option.value for option in options(config)}
    assert load(environ={"DOCKER_HOSTS": listed["DOCKER_HOSTS"]}).docker_hosts == (
        config.docker_hosts
    )


def test_a_name_is_registered_once(lunar: LunarFactory) -> None:
    with pytest.raises(ValueError, match='There is an executor "lunar" already'):
        registry.register(LunarFactory())


async def test_a_host_without_a_farm_belongs_to_the_executor_of_its_scheme(
    lunar: LunarFactory, tmp_path: Path
) -> None:
    config = load(environ=environ(tmp_path, {"hosts": ["process://here"]}))
    executors = Executors.configured(config, config.docker_hosts, default=config.executor)
    assert executors.of("process://here").name == "process"
    assert executors.of("fake://mars").name == "lunar"
    assert executors.of("a:2375").name == "docker"


class Unopened(LunarExecutor):
    async def open(self, installation: str) -> None:
        raise RuntimeError("no room")


async def test_an_executor_that_cannot_be_opened_closes_those_before_it() -> None:
    closed: list[str] = []

    class Closing(LunarExecutor):
        async def close(self) -> None:
            closed.append(self.name)

    executors = Executors({"a": Closing(()), "b": Unopened(())}, default="a")
    with pytest.raises(RuntimeError, match="no room"):
        await executors.open("test")
    assert closed == ["lunar"]
