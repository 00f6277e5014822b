"""What a farm of DOCKER_HOSTS may say of its hosts, and how its faults are told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fastlane.config import load, options, warnings
from fastlane.model import RegistryCredentials, Resources, TlsFiles
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
    assert first.tls == TlsFiles(*(str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")))
    assert first.registry_auth == {"r.example": RegistryCredentials("ann", "hunter2")}
    assert second.tls == TlsFiles(str(tmp_path / "ca.pem"))
    assert second.registry_auth == {
        "docker.io": RegistryCredentials("bob", "hunter3"),
        "r.example:5000": RegistryCredentials(identity_token="hunter4"),
    }
    assert "hunter" not in repr(config) + repr(options(config))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"tls": 1}, "tls must be an object of ca, cert, key"),
        ({"tls": "/no/such"}, "/no/such/ca.pem in tls cannot be read"),
        ({"tls": {"cert": "x"}}, "cert and key in tls belong together"),
        ({"tls": {}}, "tls must be a directory"),
        ({"tls": {"ca": "/dev/null"}, "hosts": ["unix:///a"]}, "cannot speak TLS"),
        ({"limits": {"memory": "1k"}}, "memory in limits must be a size from 6m"),
        ({"limits": {"memory": "x"}}, "memory in limits must be a size"),
        ({"limits": {"cpus": "1"}}, "cpus in limits must be a number"),
        ({"limits": {"cpus": True}}, "cpus in limits must be a number"),
        ({"limits": {"pids": 0}}, "pids in limits must be a whole number"),
        ({"limits": {"cpu": 1}}, "'cpu' in limits is not one of cpus, memory, pids"),
        ({"images": []}, "images must be a list"),
        ({"images": ["("]}, "'(' in images is not a regular expression"),
    ],
)
def test_a_malformed_key_of_a_farm_is_named(keys: dict[str, Any], says: str) -> None:
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps([{"hosts": ["a:1"], **keys}])})
    assert says in sentence


@pytest.mark.parametrize(
    ("login", "says"),
    [
        (1, "registryAuth must be an object"),
        ("/no/such", "/no/such in registryAuth cannot be read"),
        ({"r": "hunter2"}, "registryAuth of 'r' must be an object"),
        ({"r": {"username": "hunter2"}}, "must hold username and password"),
        ({"r": {"auth": "hunter2!"}}, "is not base64 of user:password"),
        ({"r": {"password": ["hunter2"]}}, "must hold texts"),
        ({"r": {"pass": "hunter2"}}, "'pass' in registryAuth of 'r' is not one of"),
    ],
)
def test_a_malformed_login_is_named_and_not_shown(login: Any, says: str) -> None:
    farm = [{"hosts": ["a:1"], "registryAuth": login}]
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps(farm)})
    assert says in sentence
    assert "hunter2" not in sentence


def test_one_host_has_one_tls(tmp_path: Path) -> None:
    farm = {"hosts": ["a:1"]}
    other = {**farm, "tls": {"ca": "/dev/null"}}
    (sentence,) = faults({"DOCKER_HOSTS": json.dumps([farm, other])})
    assert "in farm 2, host 'a:1' has another tls than in a farm before" in sentence


def test_what_was_hardly_meant_is_told() -> None:
    farms = [
        {"name": "a", "match": "^a", "hosts": ["10.0.0.1:2375", "localhost:2375", "unix:///x"]},
        {"name": "b", "hosts": ["https://b:2376"]},
        {"name": "c", "match": "^c", "hosts": ["127.0.0.1:2375"]},
    ]
    environ = {"DOCKER_HOSTS": json.dumps(farms)}
    assert warnings(load(environ=environ)) == [
        "Host 10.0.0.1:2375 of farm a is reached without TLS: whoever is on the way can run "
        "anything on it; give the farm tls.",
        "Farm c gets no task: farm b before it has an empty match and takes them all.",
    ]
    assert len(warnings(load(environ={**environ, "DOCKER_TLS_VERIFY": "1"}))) == 1
    assert warnings(load(environ={})) == []


def test_a_record_outlives_its_container() -> None:
    (sentence,) = faults({"CONTAINER_RETENTION": "60", "EXECUTION_RETENTION": "30"})
    assert "a record outlives its container" in sentence
