"""The seam of executors: nothing outside ``executors/`` knows what runs its jobs."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

import fastlane
from fastlane.executors import registry

PACKAGE = Path(fastlane.__file__).parent
WORD = re.compile(r"docker|swarm|podman", re.IGNORECASE)
# The contract's own names, which are everywhere.
NAMES = re.compile(
    r"DOCKER_(HOSTS?|TLS_VERIFY|CERT_PATH)|docker_(hosts?|port|tls_verify|cert_path)"
    r"|docker_circuit_breaker_\w+|/docker-executor/blacklist"
)
# What else may name them, and why.
EXCEPTIONS = {
    "config/options.py": "default and help texts of the options DOCKER_* and EXECUTOR",
    "image.py": "docker.io, the registry of images that name none",
    "api/schemas/responses/server.py": "the example of an executor's name",
}


def code_of(path: Path) -> str:
    """A module without its comments, where a source may be cited."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)


def names_an_engine(path: Path) -> bool:
    return WORD.search(NAMES.sub("", code_of(path))) is not None


def test_engines_are_named_in_executors_only() -> None:
    found = {
        name
        for path in PACKAGE.rglob("*.py")
        if not (name := str(path.relative_to(PACKAGE))).startswith("executors/")
        and names_an_engine(path)
    }
    assert found == EXCEPTIONS.keys()


@pytest.mark.parametrize("name", registry.names())
def test_an_executor_is_what_its_factory_says(name: str, tmp_path: Path) -> None:
    from fastlane.config import Config

    factory = registry.factory(name)
    executor = factory.make(Config(data_dir=tmp_path), ())
    assert executor.name == factory.name == name
    for scheme in factory.schemes:
        assert registry.name_for(f"{scheme}://host", name) == name
