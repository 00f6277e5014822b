"""The configuration: what can be set, where it is read, and the sentences about mistakes."""

from fastlane.checks import is_loopback
from fastlane.config.loading import load
from fastlane.config.messages import Option, misspellings, options, warnings
from fastlane.config.options import ROLES, Config
from fastlane.config.types import default_data_dir

__all__ = [
    "ROLES",
    "Config",
    "Option",
    "default_data_dir",
    "is_loopback",
    "load",
    "misspellings",
    "options",
    "warnings",
]
