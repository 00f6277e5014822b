"""Options: where they are read, what they may be, and what is said when they are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fastlane.config import (
    ROLES,
    Config,
    default_data_dir,
    is_loopback,
    load,
    misspellings,
    options,
    warnings,
)
from fastlane.errors import ConfigError
from fastlane.executors.base import FarmOptions
from fastlane.executors.docker.farms import DockerOptions
from fastlane.model import Backoff, Farm, Resources
from fastlane.redact import redactor
from fastlane.server import check_access


def faults(
    environ: Mapping[str, str], file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environ, overrides)
    return str(caught.value).splitlines()


def docker_farm(name: str, hosts: tuple[str, ...], max_running: int, match: str = "") -> Farm:
    options = DockerOptions()
    return Farm(name, hosts, max_running, match, executor="docker", options=options)


def written(folder: Path, text: str) -> Path:
    path = folder / "fastlane.env"
    path.write_text(text)
    return path


def test_defaults() -> None:
    config = load(environ={"HOME": "/home/me"})
    assert (config.host, config.port, config.executor) == ("127.0.0.1", 10000, "docker")
    assert config.docker_hosts == (docker_farm("default", ("unix:///var/run/docker.sock",), 8),)
    assert config.log_max_bytes == 100 * 1024**2
    assert config.max_body_bytes == 1024**2
    assert config.hard_execution_timeout_seconds == 1800
    assert config.backoff == Backoff(1000, 2, 300_000)
    assert config.resources == Resources(pids=1024)
    assert config.env_blacklisted_words == ("password", "key", "secret", "client_id", "token")
    assert config == Config()


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().port = 1  # type: ignore[misc, unused-ignore]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_DATA_HOME": "/data"}, Path("/data/fastlane")),
        ({"XDG_DATA_HOME": "relative"}, Path.home() / ".local/share/fastlane"),
        ({"XDG_DATA_HOME": ""}, Path.home() / ".local/share/fastlane"),
        ({}, Path.home() / ".local/share/fastlane"),
        ({"DATA_DIR": "/here", "XDG_DATA_HOME": "/data"}, Path("/here")),
        ({"DATA_DIR": "~/jobs"}, Path.home() / "jobs"),
        ({"DATA_DIR": "jobs"}, Path.cwd() / "jobs"),
    ],
)
def test_data_dir(environ: dict[str, str], expected: Path) -> None:
    assert load(environ=environ).data_dir == expected
    assert default_data_dir(environ).is_absolute()


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "HOST=10.0.0.1\nPORT=1\nMAX_RUNNING=3\n")
    config = load(file, {"PORT": "2", "HOST": "10.0.0.2"}, {"host": "10.0.0.3", "port": None})
    assert (config.host, config.port, config.max_running) == ("10.0.0.3", 2, 3)


def test_a_file_is_read_as_an_env_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "# all there is\n\nexport PORT=1 # why not\nINSTALLATION='a-b'\nBASIC_AUTH_USER=me\n"
        'BASIC_AUTH_PASSWORD="${HOME} #1"\nLOG_LEVEL=\nmax_running=4\n'
        'DOCKER_HOSTS=[{"match": "", "hosts": ["localhost:1234"], "maxRunning": 2}]\n',
    )
    config = load(file, {"HOME": "/root"})
    assert (config.port, config.installation, config.max_running) == (1, "a-b", 4)
    assert config.basic_auth_password.get_secret_value() == "${HOME} #1"
    assert config.log_level == "info"
    assert config.docker_hosts == (docker_farm("default", ("localhost:1234",), 2),)


def test_only_upper_case_names_and_values_count_in_the_environment() -> None:
    config = load(environ={"port": "1", "HOST": "", "LOG_LEVEL": "", "UNKNOWN": "x"})
    assert config == Config()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "0", 0),
        ("LOG_MAX_BYTES", "0", 0),
        ("LOG_MAX_BYTES", "100m", 100 * 1024**2),
        ("LOG_MAX_BYTES", "2GiB", 2 * 1024**3),
        ("LOG_MAX_BYTES", "64 KB", 64 * 1024),
        ("DEFAULT_MEMORY", "512m", 512 * 1024**2),
        ("DEFAULT_MEMORY", "0", None),
        ("DEFAULT_DISK", "10g", 10 * 1024**3),
        ("DEFAULT_DISK", "0", None),
        ("DEFAULT_CPUS", "1.5", 1.5),
        ("DEFAULT_PIDS", "0", None),
        ("HEALTHCHECK_OPEN", "true", True),
        ("DOCKER_TLS_VERIFY", "1", True),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("LOG_FORMAT", "Json", "json"),
        ("STOP_GRACE_SECONDS", "0", 0),
        ("EXPONENTIAL_BACKOFF_FACTOR", "1.5", 1.5),
        ("ENV_BLACKLISTED_WORDS", "Pass, key ,", ("pass", "key")),
        ("CORS_ORIGINS", "https://A.example,http://localhost:3000", None),
        ("ALLOWED_HOSTS", "Fastlane.example, localhost", ("fastlane.example", "localhost")),
        ("HOST", "[::1]", "::1"),
    ],
)
def test_values(name: str, text: str, expected: object) -> None:
    value = getattr(load(environ={name: text}), name.lower())
    if name == "CORS_ORIGINS":
        expected = ("https://a.example", "http://localhost:3000")
    assert value == expected


def test_proxies_are_networks() -> None:
    networks = load(environ={"TRUSTED_PROXIES": "10.0.0.0/8, ::1,127.0.0.1"}).trusted_proxies
    assert [str(network) for network in networks] == ["10.0.0.0/8", "::1/128", "127.0.0.1/32"]


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("PORT", "abc", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("HOST", "a b", "an IP address or a host name"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "auto, console or json"),
        ("AUTH", "token", "none, or leave it empty"),
        ("EXECUTOR", "podman", "docker, swarm, process"),
        ("HEALTHCHECK_OPEN", "maybe", "true or false"),
        ("MAX_RUNNING", "0", "a whole number from 1 to 10000"),
        ("LOG_MAX_BYTES", "-1", "a size like 100m"),
        ("LOG_MAX_BYTES", "1q", "a size like 100m"),
        ("MAX_BODY_BYTES", "10", "a size from 1k to 1g"),
        ("DEFAULT_MEMORY", "1k", "a size from 6m"),
        ("DEFAULT_DISK", "1k", "a size from 1m"),
        ("DEFAULT_CPUS", "nan", "a number from 0.01"),
        ("HARD_EXECUTION_TIMEOUT_SECONDS", "0", "a number of seconds"),
        ("HARD_EXECUTION_TIMEOUT_SECONDS", "inf", "a number of seconds"),
        ("LEASE_SECONDS", "0.5", "a number of seconds from 1"),
        ("EXPONENTIAL_BACKOFF_FACTOR", "0.5", "a number from 1 to 100"),
        ("EXPONENTIAL_BACKOFF_MAX_MS", "10", "at least EXPONENTIAL_BACKOFF_MIN_MS"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy", "networks like 10.0.0.0/8"),
        ("CORS_ORIGINS", "example.org", "origins like https://example.org"),
        ("ALLOWED_HOSTS", "a/b", "host names"),
        ("INSTALLATION", "a b", "letters, digits"),
        ("DATA_DIR", "~nobody-of-that-name/x", "the path of a directory"),
        ("BASIC_AUTH_USER", "a:b", "a user name without a colon"),
        ("PUBLIC_URL", "fastlane.example.org", "a URL like https://"),
        ("PUBLIC_URL", "https://me:x@example.org", "a URL like https://"),
        ("WEBHOOKS_ALLOWED_NETWORKS", "10.0.0.0/8,inside", "networks like 10.1.0.0/16"),
        ("WEBHOOKS_EXPONENTIAL_BACKOFF_FACTOR", "0", "a number from 1 to 100"),
        ("WEBHOOKS_TIMEOUT_SECONDS", "0", "a number of seconds"),
        ("SMTP_PORT", "65536", "a whole number from 0 to 65535"),
        ("SMTP_FROM", "nobody", "an email address"),
        ("SMTP_USE_SSL", "perhaps", "true or false"),
    ],
)
def test_a_malformed_value_is_named_with_its_remedy(name: str, text: str, remedy: str) -> None:
    (sentence,) = [line for line in faults({name: text}) if line.startswith(name)]
    assert sentence.startswith(f'{name} is "{text}" in the environment: ')
    assert remedy in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("WEBHOOKS_SECRET", "whsec_hunter2!", "it is not base64; give whsec_"),
        ("WEBHOOKS_SECRET", "whsec_aHVudGVyMg==", "it has 7 bytes; give whsec_"),
        ("WEBHOOKS_SECRET", "https://a.example=whsec_aHVudGVyMg==", "it has 7 bytes; give whsec_"),
        ("WEBHOOKS_SECRET", f"https://a.example/hook=whsec_{'A' * 32}", "not like https://"),
        ("WEBHOOKS_SECRET", f"https://me@a.example=whsec_{'A' * 32}", "not like https://"),
        ("SENTRY_DSN", "hunter2", "give a Sentry DSN"),
    ],
)
def test_a_malformed_secret_is_not_repeated(name: str, text: str, remedy: str) -> None:
    (sentence,) = [line for line in faults({name: text}) if line.startswith(name)]
    assert sentence.startswith(f"{name} is *** in the environment: ")
    assert remedy in sentence
    assert text not in sentence


def test_several_signing_secrets_are_taken() -> None:
    secrets = f"whsec_{'A' * 32} {'B' * 44} https://a.example:8443=whsec_{'C' * 43}="
    assert load(None, {"WEBHOOKS_SECRET": secrets}).webhooks_secret.get_secret_value() == secrets


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "\n# options\n\nPRT=1\nwhat is this\nLEASE_SECONDS\nfoo_secret=hunter2\nHOST=0.0.0.0\n"
        "EXECUTOR=process\nREDIS_URL=redis://me:hunter2@h\nBASIC_AUTH_PASSWORD=hunter2\n",
    )
    told = faults({"LOG_FORMAT": "xml"}, file, {"port": "abc"})
    assert all("hunter2" not in sentence for sentence in told)
    assert [sentence.split(":")[0] for sentence in told] == [
        f"PRT in line 4 of {file} is not an option",
        f"line 5 of {file} is not understood",
        f"line 6 of {file} is not understood",
        f"foo_secret in line 7 of {file} is not an option",
        'PORT is "abc" on the command line',
        f"BASIC_AUTH_PASSWORD is *** in {file}",
        f"REDIS_URL is *** in {file}",
        f'EXECUTOR is "process" in {file}',
        'LOG_FORMAT is "xml" in the environment',
    ]
    assert "did you mean PORT?" in told[0]


def test_a_long_value_is_cut() -> None:
    (sentence,) = faults({"PORT": "x" * 100_000})
    assert len(sentence) < 300


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in faults({}, tmp_path / "none")[0]
    assert "cannot be read (Is a directory)" in faults({}, tmp_path)[0]
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in faults({}, binary)[0]
    large = tmp_path / "large"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    assert "is larger than 1 MiB" in faults({}, large)[0]


@pytest.mark.parametrize(
    ("environ", "allowed"),
    [
        ({}, True),
        ({"HOST": "localhost"}, True),
        ({"HOST": "127.8.8.8"}, True),
        ({"HOST": "::1"}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"HOST": "::"}, False),
        ({"HOST": "build.example"}, False),
        ({"HOST": "127.0.0.1.example"}, False),
        ({"HOST": "0.0.0.0", "FORCE_PROCESS_EXECUTOR": "true"}, True),
    ],
)
def test_processes_are_for_loopback_unless_forced(environ: dict[str, str], allowed: bool) -> None:
    environ = {**environ, "EXECUTOR": "process"}
    assert is_loopback(environ.get("HOST", "127.0.0.1")) is (
        allowed and "FORCE_PROCESS_EXECUTOR" not in environ
    )
    if allowed:
        assert load(environ=environ).docker_hosts == (
            Farm("default", ("localhost",), 8, executor="process", options=FarmOptions()),
        )
    else:
        (sentence,) = faults(environ)
        assert "it has no isolation" in sentence
        assert "FORCE_PROCESS_EXECUTOR=true" in sentence


def test_a_healthcheck_option_that_does_nothing_is_a_warning() -> None:
    (sentence,) = warnings(load(environ={"HEALTHCHECK_OPEN": "true", "DEFAULT_DISK": "1g"}))
    assert sentence.startswith("HEALTHCHECK_OPEN is ignored")
    assert warnings(load(environ={"DEFAULT_DISK": "1g"})) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "build.example", "192.0.2.7"])
def test_an_open_api_beyond_loopback_must_be_asked_for(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first use fixes how a logger logs, and other tests have used this one.
    monkeypatch.setattr("fastlane.server.log", structlog.get_logger())
    with pytest.raises(ConfigError) as refused:
        check_access(load(environ={"HOST": host}))
    sentence = str(refused.value)
    assert sentence.startswith(f'HOST is "{host}"')
    for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASSWORD", "AUTH=none"):
        assert name in sentence
    with structlog.testing.capture_logs() as lines:
        check_access(load(environ={"HOST": host, "AUTH": "None"}))
    (line,) = lines
    assert line["log_level"] == "warning"
    # As it is written: the log hides what follows a secret's name and "=" or ":".
    sentence = redactor(Config().env_blacklisted_words).text(line["event"])
    assert sentence.startswith('AUTH is "none": everyone who can reach this server')


def test_credentials_or_loopback_are_enough() -> None:
    credentials = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASSWORD": "x"}
    with structlog.testing.capture_logs() as lines:
        check_access(load(environ={}))
        check_access(load(environ={"HOST": "0.0.0.0", **credentials}))
        check_access(load(environ={"HOST": "0.0.0.0", "AUTH": "none", **credentials}))
    assert lines == []


def test_user_and_password_belong_together() -> None:
    for environ in ({"BASIC_AUTH_USER": "me"}, {"BASIC_AUTH_PASSWORD": "hunter2"}):
        (sentence,) = faults(environ)
        assert "set BASIC_AUTH_USER and BASIC_AUTH_PASSWORD together" in sentence
        assert "hunter2" not in sentence


def test_farms() -> None:
    text = json.dumps(
        [
            {"name": "builds", "match": "^build-", "hosts": ["a:2375", "b:2375"], "maxRunning": 2},
            {"match": "x", "hosts": ["tcp://c:2376"]},
            {"hosts": ["unix:///run/docker.sock", "https://d:2376", "[::1]:2375"]},
        ]
    )
    assert load(environ={"DOCKER_HOSTS": text, "MAX_RUNNING": "5"}).docker_hosts == (
        docker_farm("builds", ("a:2375", "b:2375"), 2, "^build-"),
        docker_farm("farm-2", ("tcp://c:2376",), 5, "x"),
        docker_farm("farm-3", ("unix:///run/docker.sock", "https://d:2376", "[::1]:2375"), 5, ""),
    )


def test_one_host_comes_from_docker_host() -> None:
    config = load(environ={"DOCKER_HOST": "tcp://10.0.0.5:2375", "MAX_RUNNING": "3"})
    assert config.docker_hosts == (docker_farm("default", ("tcp://10.0.0.5:2375",), 3),)


def test_docker_host_is_looked_into_only_where_it_is_used() -> None:
    environ = {"DOCKER_HOST": "ssh://me@host"}
    (sentence,) = faults(environ)
    assert sentence.startswith('DOCKER_HOST is "ssh://me@host" in the environment: host')
    assert load(environ={**environ, "EXECUTOR": "process"}).executor == "process"
    farms = {"DOCKER_HOSTS": '[{"hosts": ["a:1"]}]'}
    assert load(environ={**environ, **farms}).docker_hosts[0].hosts == ("a:1",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("localhost:1234", "it is not JSON"),
        ("{}", "not a list of at least one farm"),
        ("[]", "not a list of at least one farm"),
        ("[1]", "in farm 1, there is no JSON object"),
        ('[{"host": ["a:1"]}]', 'in farm 1, "host" is not a known key: did you mean "hosts"?'),
        ('[{"match": ""}]', "hosts must be a list of at least one host"),
        ('[{"hosts": []}]', "hosts must be a list of at least one host"),
        ('[{"hosts": "a:1"}]', "hosts must be a list of at least one host"),
        ('[{"hosts": ["a:1", "a:1"]}]', "hosts contains the same host twice"),
        ('[{"hosts": ["a"]}]', 'host "a" must be written as name:port'),
        ('[{"hosts": ["a:x"]}]', 'host "a:x" must be written as name:port'),
        ('[{"hosts": ["a:1/x"]}]', "must be written as name:port"),
        ('[{"hosts": ["u:p@a:1"]}]', "must be written as name:port"),
        ('[{"hosts": ["ssh://a"]}]', "must have the scheme unix, tcp, http or https"),
        ('[{"hosts": ["unix://x"]}]', "must name an absolute path"),
        ('[{"hosts": ["a:1"], "match": "("}]', '"(" in match is not a regular expression'),
        ('[{"hosts": ["a:1"], "match": 1}]', "match must be a pattern"),
        ('[{"hosts": ["a:1"], "maxRunning": 0}]', "maxRunning must be a whole number from 1"),
        ('[{"hosts": ["a:1"], "maxRunning": true}]', "maxRunning must be a whole number from 1"),
        (
            '[{"hosts": ["a:1"], "maxRunningPerTask": 0}]',
            "maxRunningPerTask must be a whole number from 1",
        ),
        ('[{"hosts": ["a:1"], "name": "a b"}]', "name must be 1 to 63"),
        (
            '[{"hosts": ["a:1"], "name": "x"}, {"hosts": ["b:1"], "name": "x"}]',
            'in farm 2, the name "x" is used by another farm',
        ),
    ],
)
def test_a_malformed_farm_is_named(text: str, says: str) -> None:
    (sentence,) = faults({"DOCKER_HOSTS": text})
    assert sentence.startswith("DOCKER_HOSTS is ")
    assert says in sentence
    assert "give a JSON list like" in sentence


def test_the_order_of_the_queue() -> None:
    farms = '[{"hosts": ["a:1"], "maxRunningPerTask": 2}, {"hosts": ["b:1"]}]'
    first, second = load(environ={"DOCKER_HOSTS": farms}).docker_hosts
    assert (first.max_running_per_task, first.fifo) == (2, False)
    assert (second.max_running_per_task, second.fifo) == (None, False)
    for hosts in ('[{"hosts": ["b:1"]}]', ""):
        (farm,) = load(environ={"DOCKER_HOSTS": hosts, "QUEUE_ORDER": "FIFO"}).docker_hosts
        assert farm.fifo
    (sentence,) = faults({"DOCKER_HOSTS": farms, "QUEUE_ORDER": "fifo"})
    assert 'farm "default" has maxRunningPerTask, which needs turns' in sentence
    (sentence,) = faults({"QUEUE_ORDER": "lifo"})
    assert "fair or fifo" in sentence


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([n.upper() for n in Config.model_fields]), st.text()))
@example({"DOCKER_HOST": "a\x85b"})
def test_any_text_is_taken_or_refused_in_sentences(environ: dict[str, str]) -> None:
    told = ""
    try:
        load(environ=environ)
    except ConfigError as error:
        told = str(error)
    assert all(line.endswith(".") for line in told.splitlines())


def test_likely_misspellings_are_told() -> None:
    environ = {
        "HARD_EXECUTION_TIMEOUT_SECOND": "1",
        "BASIC_AUTH_USERNAME": "1",
        "MONGO_URL": "1",
        "DOCKER_CONFIG": "1",
        "DOCKER_HOST": "1",
        "HOSTNAME": "1",
        "LOGNAME": "1",
        "PORTS": "1",
        "XDG_DATA_DIRS": "1",
        "data_dirs": "1",
    }
    told = misspellings(environ)
    assert told == [
        "BASIC_AUTH_USERNAME in the environment is ignored: did you mean BASIC_AUTH_USER?",
        "HARD_EXECUTION_TIMEOUT_SECOND in the environment is ignored: "
        "did you mean HARD_EXECUTION_TIMEOUT_SECONDS?",
        "MONGO_URL in the environment is ignored: did you mean MONGODB_URL?",
    ]
    assert misspellings({"MONGO_URL": "1", "MONGODB_URL": "1"}) == []


def test_every_option_is_listed_with_its_value() -> None:
    config = load(
        environ={
            "PORT": "1",
            "BASIC_AUTH_USER": "me",
            "BASIC_AUTH_PASSWORD": "hunter2",
            "MAX_RUNNING": "8",
        }
    )
    listed = {option.name: option for option in options(config)}
    assert list(listed) == [name.upper() for name in Config.model_fields]
    assert all(option.type and option.help.endswith(".") for option in listed.values())
    assert (listed["PORT"].default, listed["PORT"].value) == ("10000", "1")
    assert {option.name for option in listed.values() if option.changed} == {
        "PORT",
        "BASIC_AUTH_USER",
        "BASIC_AUTH_PASSWORD",
    }
    assert listed["BASIC_AUTH_PASSWORD"].value == "***"
    assert "hunter2" not in repr(listed) + repr(config)


def test_the_listed_values_are_read_back_as_the_same_configuration() -> None:
    config = Config()
    environ = {option.name: option.value for option in options(config)}
    assert load(environ=environ) == config
    defaults = {option.name: option.default for option in options(config)}
    assert load(environ=defaults) == config


# -- the cluster store ------------------------------------------------------------------------


def cluster(**environ: str) -> Config:
    return load(None, {"DATA_DIR": "/tmp/x", **environ})


def test_both_stores_or_neither() -> None:
    assert cluster().cluster_urls is None
    mongodb, redis = "mongodb://m/fastlane", "redis://r/0"
    assert cluster(MONGODB_URL=mongodb, REDIS_URL=redis).cluster_urls == (mongodb, redis)
    assert cluster(MONGODB_URI=mongodb, REDIS_URL=redis).cluster_urls == (mongodb, redis)
    for half in ({"MONGODB_URL": mongodb}, {"MONGODB_URI": mongodb}, {"REDIS_URL": redis}):
        with pytest.raises(ConfigError, match="MONGODB_URL and REDIS_URL together"):
            cluster(**half)


@pytest.mark.parametrize(
    "environ",
    [
        {"MONGODB_URL": "http://user:hunter2@m"},
        {"MONGODB_URL": "mongodb://m", "MONGODB_URI": "mongodb://n:hunter2@n"},
        {"REDIS_URL": "memcached://:hunter2@r"},
    ],
)
def test_a_store_that_is_not_understood(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        cluster(**{"MONGODB_URL": "mongodb://m", "REDIS_URL": "redis://r"} | environ)
    assert "hunter2" not in str(refused.value)


def test_roles() -> None:
    stores = {"MONGODB_URL": "mongodb://m", "REDIS_URL": "redis+sentinel://a:1,b:2/name/0"}
    assert cluster().roles == ROLES
    assert cluster(ROLES="api", **stores).roles == ("api",)
    assert cluster(ROLES="scheduler, monitor", **stores).roles == ("scheduler", "monitor")
    with pytest.raises(ConfigError, match="'web' is not a role"):
        cluster(ROLES="web", **stores)
    with pytest.raises(ConfigError, match="does nothing"):
        cluster(ROLES=",", **stores)
    with pytest.raises(ConfigError, match="embedded store belongs to one server"):
        cluster(ROLES="api")


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"ROLES": "notifier"}, "no api role"),
        ({"ROLES": "notifier", "PUBLIC_URL": "https://fastlane.example"}, None),
        ({"ROLES": "dispatcher"}, None),
        ({"SMTP_HOST": "mail.example"}, "127.0.0.1"),
        ({"SMTP_HOST": "mail.example", "ROLES": "api"}, None),
        ({"SMTP_HOST": "mail.example", "PUBLIC_URL": "https://fastlane.example"}, None),
        ({"SMTP_HOST": "mail.example", "HOST": "192.0.2.7"}, None),
    ],
)
def test_links_that_nobody_can_open_are_warned_of(
    options: dict[str, str], warned: str | None
) -> None:
    stores = {"MONGODB_URL": "mongodb://m/", "REDIS_URL": "redis://r/"}
    config = load(environ=options | (stores if "ROLES" in options else {}))
    found = [sentence for sentence in warnings(config) if "PUBLIC_URL" in sentence]
    assert [warned in sentence for sentence in found if warned] == [True] * len(found)
    assert len(found) == (warned is not None)
