"""Reads the options: the command line, the environment and a file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from fastlane.config.messages import NAMES, sentences, unknown
from fastlane.config.options import Config
from fastlane.config.types import default_data_dir
from fastlane.errors import ConfigError

# Bounds what is read as a configuration file, in bytes.
_FILE_MAX_BYTES = 1024 * 1024


class _Strings(EnvSettingsSource):
    """Options out of a mapping of texts, read as pydantic-settings reads the environment."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(Config)
        self.env_vars = {name.lower(): value for name, value in values.items() if value}


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from *overrides* (those that are not None), *environ* and *file*.

    :param environ: ``os.environ`` unless given.
    :param overrides: lower-case option names, as the command line gives them.
    :raises ConfigError: one sentence per line for every fault there is.
    """
    environ = os.environ if environ is None else environ
    in_file, faults = _read_file(file) if file is not None else ({}, [])
    # The environment is case-sensitive: only upper-case names are ours.
    in_environ = {name: value for name, value in environ.items() if name.isupper()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, found in (
        (f"in {file}", _Strings(in_file)()),
        ("in the environment", _Strings(in_environ)()),
        ("on the command line", {k: v for k, v in (overrides or {}).items() if v is not None}),
    ):
        values |= found
        origins |= dict.fromkeys(found, origin)
    config = None
    try:
        config = Config(**{"data_dir": default_data_dir(environ), **values})
        config.origins.update(origins)
    except ValidationError as error:
        faults += sentences(error, values, origins)
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    return config


def _read_file(file: Path) -> tuple[dict[str, str], list[str]]:
    """The values in *file* by name as written there, and a sentence for every faulty line."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        reason = error.strerror or error
        return {}, [f"--config {file} cannot be read ({reason}): give a file that can."]
    except UnicodeDecodeError:
        return {}, [f"--config {file} is not UTF-8 text: give a file of NAME=value lines."]
    if len(data) > _FILE_MAX_BYTES:
        return {}, [f"--config {file} is larger than 1 MiB: give a file of NAME=value lines."]
    values: dict[str, str] = {}
    faults: list[str] = []
    for binding in parse_stream(io.StringIO(text)):
        # The parser begins a binding with the blank lines before it.
        lead = binding.original.string
        line = binding.original.line + lead[: len(lead) - len(lead.lstrip())].count("\n")
        place = f"line {line} of {file}"
        if binding.error or (binding.key is not None and binding.value is None):
            faults.append(f"{place} is not understood: write NAME=value.")
        elif binding.key is not None and binding.key.upper() not in NAMES:
            faults.append(unknown(binding.key, place))
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values, faults
