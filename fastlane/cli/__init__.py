"""The command line: one module for each group of verbs, thin over the client and the server.

Exit codes: 0 for success, 1 when something failed, 2 when the arguments or the configuration are
wrong; nothing was started then. ``run``, ``wait`` and ``logs --follow`` exit as the job does: with
124 if it timed out and 125 if it ended otherwise without an exit code; 130 after Ctrl-C. Errors are
sentences on standard error, one on each line.

Modules import at their top what every command needs, and in their functions what only some do: the
tool has to start faster than anybody waits.
"""

from __future__ import annotations

import sys

# Each registers its commands.
from fastlane.cli import (  # noqa: F401
    administration,
    lists,
    notifications,
    operate,
    options,
    read,
    run,
    server,
    servers,
    steer,
    watch,
)
from fastlane.cli.app import app, say
from fastlane.cli.follow import die_of_sigpipe
from fastlane.errors import ConfigError, FastlaneError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the process ends with the exit codes above."""
    try:
        # Also when it runs as a module.
        app(prog_name="fastlane")
    except FastlaneError as error:
        _fail(error, 2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        die_of_sigpipe()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"{where}{error.strerror or error}")
        sys.exit(1)
    except Exception as error:
        # Only a command that has called a server has paid for its import.
        client = sys.modules.get("fastlane_client")
        if client is None or not isinstance(error, client.ClientError):
            raise
        _fail(error, 2 if isinstance(error, client.BadAddress) else 1)


def _fail(error: Exception, code: int) -> None:
    for sentence in str(error).splitlines():
        say(sentence)
    sys.exit(code)
