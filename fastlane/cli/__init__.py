"""The command line: one module for each group of verbs, thin over the client and the server.

Exit codes: 0 for success, 1 when something failed, 2 when the arguments or the configuration are
wrong; nothing was started then. ``submit --follow`` and ``logs --follow`` exit as the job does, and
with 130 after Ctrl-C. Errors are sentences on standard error, one on each line.
"""

from __future__ import annotations

import sys

# Each registers its commands.
from fastlane.cli import jobs, notifications, options, server, upkeep  # noqa: F401
from fastlane.cli.app import app, say
from fastlane.client import ClientError
from fastlane.errors import ConfigError, FastlaneError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the process ends with the exit codes above."""
    try:
        app()
    except (FastlaneError, ClientError) as error:
        for sentence in str(error).splitlines():
            say(sentence)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"{where}{error.strerror or error}")
        sys.exit(1)
