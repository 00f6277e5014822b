"""The configuration: what can be set, where it is read, and what is said when it is wrong."""

from fastlane.config.farms import check_docker_host
from fastlane.config.loading import load
from fastlane.config.messages import Option, misspellings, options, warnings
from fastlane.config.options import ROLES, Config
from fastlane.config.types import default_data_dir, is_loopback

__all__ = [
    "ROLES",
    "Config",
    "Option",
    "check_docker_host",
    "default_data_dir",
    "is_loopback",
    "load",
    "misspellings",
    "options",
    "warnings",
]
