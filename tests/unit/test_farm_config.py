"""What a farm of DOCKER_HOSTS may say of its hosts, and how its faults are told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fastlane.config import load, options, warnings
from fastlane.executors.docker.credentials import RegistryCredentials
from fastlane.executors.docker.farms import DockerOptions, TlsFiles
from fastlane.model import Resources
from tests.unit.test_config import faults


def test_a_farm_says_more_of_its_hosts(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("x")
    login = {"username": "ann", "password": "hunter2"}
    pair = base64.b64encode(b"bob:hunter3").decode()
    docker = tmp_path / "config.json"
    docker.write_text(
        json.dumps(
            {
                "auths": {
                    "https://index.docker.io/v1/": {"auth": pair},
                    "https://r.example:5000/v2/": {"identitytoken": "hunter4"},
                    "helped.example": {},
                }
            }
        )
    )
    farms = [
        {
            "match": "^a",
            "hosts": ["a:2376"],
            "tls": str(tmp_path),
            "limits": {"cpus": 1.5, "memory": "64m", "pids": 9},
            "images": ["busy:.*"],
            "registryAuth": {"r.example": login},
        },
        {"hosts": ["b:2376"], "tls": {"ca": str(tmp_path / "ca.pem")}, "registryAuth": str(docker)},
    ]
    config = load(environ={"DOCKER_HOSTS": json.dumps(farms)})
    first, second = config.docker_hosts
    assert first.limits == Resources(1.5, 64 * 1024**2, 9)
    assert first.images == ("busy:.*",)
    assert isinstance(first.options, DockerOptions)
    assert isinstance(second.options, DockerOptions)
    assert first.options.tls == TlsFiles(
        **{name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    )
    assert first.options.registry_auth == {"r.example": RegistryCredentials("ann", "hunter2")}
    assert second.options.tls == TlsFiles(ca=str(tmp_path / "ca.pem"), cert=None, key=None)
    assert second.options.registry_auth == {
        "docker.io": RegistryCredentials("bob", "hunter3"),
        "r.example:5000": RegistryCredentials(identity_token="hunter4"),
    }
    assert "hunter" not in repr(config) + repr(options(config))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"tls": 1}, "tls must be the path of a directory, or an object"),
        ({"tls": "/no/such"}, '"/no/such/ca.pem" in tls cannot be read'),
        ({"tls": {"cert": "x"}}, "cert and key in tls must be set together"),
        ({"tls": {}}, "tls must name at least one of ca, cert and key"),
        ({"tls": {"ca": "/dev/null"}, "hosts": ["unix:///a"]}, "cannot use TLS"),
        ({"limits": {"memory": "1k"}}, "memory in limits must be a size from 6m"),
        ({"limits": {"memory": "x"}}, "memory in limits must be a size from 6m"),
        ({"limits": {"cpus": "1"}}, "cpus in limits must be a number"),
        ({"limits": {"cpus": True}}, "cpus in limits must be a number"),
        ({"limits": {"disk": "1k"}}, "disk in limits must be a size from 1m"),
        ({"limits": {"disk": "x"}}, "disk in limits must be a size from 1m"),
        ({"limits": {"pids": 0}}, "pids in limits must be a whole number"),
        ({"limits": {"cpu": 1}}, '"cpu" in limits is not a known key: did you mean "cpus"?'),
        ({"network": "host"}, "network must be bridge, none or isolated"),
        (
            {"network": "isolated", "executor": "swarm"},
            'network "isolated" is not supported by the swarm executor; use bridge',
        ),
        (
            {"network": "none", "executor": "process", "hosts": ["a"]},
            'network "none" is not supported by the process executor; leave it out',
        ),
        ({"registriesAllowed": "r"}, "registriesAllowed must be a list of registries"),
        ({"registriesAllowed": ["r"]}, '"r" in registriesAllowed is not a registry'),
        ({"registriesAllowed": ["http://r.example"]}, "is not a registry"),
        ({"images": []}, "images must be a list of 1 to 100"),
        ({"images": ["("]}, '"(" in images is not a regular expression'),
    ],
)
def test_a_malformed_key_of_a_farm_is_named(keys: dict[str, Any], says: str) -> None:
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps([{"hosts": ["a:1"], **keys}])})
    assert says in sentence


@pytest.mark.parametrize(
    ("login", "says"),
    [
        (1, "registryAuth must be an object"),
        ("/no/such", 'registryAuth "/no/such" cannot be read'),
        ({"r": "hunter2"}, 'registryAuth of "r" must be an object'),
        ({"r": {"username": "hunter2"}}, "must have username and password"),
        ({"r": {"auth": "hunter2!"}}, "must be base64 of user:password"),
        ({"r": {"password": ["hunter2"]}}, "must be a string"),
        ({"r": {"pass": "hunter2"}}, '"pass" in registryAuth of "r" is not one of'),
    ],
)
def test_a_malformed_login_is_named_and_not_shown(login: Any, says: str) -> None:
    farm = [{"hosts": ["a:1"], "registryAuth": login}]
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps(farm)})
    assert says in sentence
    assert "hunter2" not in sentence


def test_what_the_runs_of_a_farm_can_reach() -> None:
    farms = [
        {"hosts": ["a:1"], "match": "a"},
        {"hosts": ["b:1"], "match": "b", "network": "isolated"},
        {"hosts": ["c:1"], "match": "c", "network": "none"},
        {"hosts": ["d:1"], "match": "d", "network": "bridge", "executor": "swarm"},
    ]
    config = load(environ={"DOCKER_HOSTS": json.dumps(farms)})
    assert [str(farm.network) for farm in config.docker_hosts] == [
        "bridge",
        "isolated",
        "none",
        "bridge",
    ]
    (shown,) = (each for each in options(config) if each.name == "DOCKER_HOSTS")
    assert load(environ={"DOCKER_HOSTS": shown.value}).docker_hosts == config.docker_hosts


def test_what_a_farm_allows_of_images() -> None:
    login = {"r.example": {"username": "ann", "password": "hunter2"}}
    farms: list[dict[str, Any]] = [
        {"hosts": ["a:1"], "match": "a", "registriesAllowed": ["10.0.0.7:5000", "localhost:5000"]},
        {"hosts": ["b:1"], "match": "b", "images": [".*"]},
        {"hosts": ["c:1"], "match": "c", "registryAuth": login},
    ]
    environ = {"DOCKER_HOSTS": json.dumps(farms), "REGISTRIES_ALLOWED": "r.internal,10.0.0.8"}
    config = load(environ=environ)
    assert config.registries_allowed == ("r.internal", "10.0.0.8")
    first = config.docker_hosts[0].options
    assert isinstance(first, DockerOptions)
    assert first.registries_allowed == ("10.0.0.7:5000", "localhost:5000")
    assert [farm.image_ids for farm in config.docker_hosts] == [True, False, False]
    (sentence,) = faults({"REGISTRIES_ALLOWED": "registry"})
    assert "registries like 10.0.0.7:5000" in sentence


def test_one_host_has_one_tls(tmp_path: Path) -> None:
    farm = {"hosts": ["a:1"]}
    other = {**farm, "tls": {"ca": "/dev/null"}}
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps([farm, other])})
    assert 'in farm 2, host "a:1" is reached in another way than in a farm before' in sentence


def test_what_was_hardly_meant_is_told() -> None:
    farms = [
        {"name": "a", "match": "^a", "hosts": ["10.0.0.1:2375", "localhost:2375", "unix:///x"]},
        {"name": "b", "hosts": ["https://b:2376"]},
        {"name": "c", "match": "^c", "hosts": ["127.0.0.1:2375"]},
    ]
    environ = {"DOCKER_HOSTS": json.dumps(farms), "DEFAULT_DISK": "1g"}
    assert warnings(load(environ=environ)) == [
        'Host "10.0.0.1:2375" of farm "a" is reached without TLS: anyone on the network between '
        "can run anything on it. Give the farm tls.",
        'Farm "c" gets no tasks: farm "b" before it has an empty match, which accepts all of them.',
    ]
    assert len(warnings(load(environ={**environ, "DOCKER_TLS_VERIFY": "1"}))) == 1
    assert warnings(load(environ={"DEFAULT_DISK": "1g"})) == []


def test_a_farm_without_a_cap_is_a_warning() -> None:
    farms: list[dict[str, Any]] = [
        {"name": "d", "match": "^d", "hosts": ["unix:///d"]},
        {"name": "s", "match": "^s", "hosts": ["unix:///s"], "executor": "swarm"},
        {"name": "p", "match": "^p", "hosts": ["process://p"]},
    ]

    def told(**environ: str) -> list[str]:
        hosts = json.dumps(farms)
        return [
            sentence.partition(":")[0]
            for sentence in warnings(load(environ={"DOCKER_HOSTS": hosts, **environ}))
        ]

    assert told() == [
        'Farm "d" limits no disk',
        'Farm "s" limits no memory',
        'Farm "p" limits no memory',
    ]
    assert told(DEFAULT_MEMORY="0")[0] == 'Farm "d" limits no memory and no disk'
    assert told(DEFAULT_DISK="10g", DEFAULT_MEMORY="1g") == []
    for farm in farms:
        farm["limits"] = {"memory": "1g"}
    assert told(DEFAULT_MEMORY="0") == ['Farm "d" limits no disk']
    farms[0]["limits"]["disk"] = "10g"
    assert told() == []
    config = load(environ={"DOCKER_HOSTS": json.dumps(farms)})
    assert config.docker_hosts[0].limits.disk_bytes == 10 * 1024**3
    (shown,) = (each for each in options(config) if each.name == "DOCKER_HOSTS")
    assert load(environ={"DOCKER_HOSTS": shown.value}).docker_hosts == config.docker_hosts
    farms[1]["limits"]["disk"] = "10g"
    assert told() == ['Farm "s" limits disk, which the swarm executor does not enforce.']


def test_the_scheme_or_a_key_chooses_the_executor() -> None:
    farms = [
        {"match": "^a", "hosts": ["tcp://a:2376"]},
        {"match": "^b", "hosts": ["tcp://b:2376"], "executor": "swarm"},
        {"match": "^c", "hosts": ["process://here"]},
        {"match": "^d", "hosts": ["here"]},
    ]
    loaded = load(environ={"DOCKER_HOSTS": json.dumps(farms), "EXECUTOR": "process"})
    assert [farm.executor for farm in loaded.docker_hosts] == [
        "docker",
        "swarm",
        "process",
        "process",
    ]
    del farms[3]
    loaded = load(environ={"DOCKER_HOSTS": json.dumps(farms), "EXECUTOR": "swarm"})
    assert [farm.executor for farm in loaded.docker_hosts] == ["swarm", "swarm", "process"]


@pytest.mark.parametrize(
    ("farms", "says"),
    [
        ([{"hosts": ["a:1"], "executor": "podman"}], "executor must be one of docker, swarm"),
        ([{"hosts": ["a:1"], "executor": 1}], "executor must be the name of an executor"),
        (
            [{"hosts": ["a:1"]}, {"hosts": ["a:1"], "executor": "swarm"}],
            'in farm 2, host "a:1" belongs to the docker executor of a farm before',
        ),
        (
            [{"hosts": ["process://a", "b:1"]}],
            "the hosts belong to different executors (docker, process)",
        ),
        (
            [{"hosts": ["a"], "executor": "process", "tls": "/x"}],
            '"tls" is not a known key: use one of name, match, hosts',
        ),
    ],
)
def test_an_executor_that_does_not_fit_its_farm(farms: list[Any], says: str) -> None:
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps(farms)})
    assert says in sentence


def test_a_farm_of_processes_is_for_loopback_unless_forced() -> None:
    farms = json.dumps([{"hosts": ["process://here"]}])
    environ = {"DOCKER_HOSTS": farms, "HOST": "0.0.0.0"}
    (sentence,) = faults(environ)
    assert 'farm "default" uses the process executor, which has no isolation' in sentence
    assert load(environ={**environ, "FORCE_PROCESS_EXECUTOR": "true"}).docker_hosts


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def test_a_farm_of_processes_warns_when_the_server_is_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    farms = json.dumps([{"hosts": ["process://here"]}])
    environ = {"DOCKER_HOSTS": farms, "DEFAULT_MEMORY": "1g"}
    assert warnings(load(environ=environ)) == []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (sentence,) = warnings(load(environ=environ))
    assert sentence.startswith('Farm "default" runs its commands as root, because the server does')


def test_what_an_executor_cannot_do_is_reported() -> None:
    farms = [{"hosts": ["process://here"], "limits": {"cpus": 1, "memory": "1g"}, "images": ["a"]}]
    assert warnings(load(environ={"DOCKER_HOSTS": json.dumps(farms)})) == [
        'Farm "default" limits cpus, which the process executor does not enforce.',
        'Farm "default" restricts images, but the process executor uses none.',
    ]


def test_a_record_outlives_its_container() -> None:
    (sentence,) = faults({"CONTAINER_RETENTION": "60", "EXECUTION_RETENTION": "30"})
    assert "a record outlives its container" in sentence
