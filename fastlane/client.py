"""The Python client, which is the distribution ``fastlane-client``, under the server's name."""

from fastlane_client import *  # noqa: F403
from fastlane_client import __all__ as __all__
