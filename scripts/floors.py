"""Sets the floors in both setup.cfg to the versions in constraints.txt: those have been tested."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUPS = (ROOT / "setup.cfg", ROOT / "client/setup.cfg")
_REQUIREMENT = re.compile(r"^(    )([A-Za-z0-9_.-]+)((?:\[[\w,]+\])?) >= [\w.]+", re.MULTILINE)


def raised(setup: str, constraints: str) -> str:
    """*setup* with each floor at the version that *constraints* pins.

    :raises KeyError: a package is not pinned.
    """
    pins = {
        _plain(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE)
    }
    return _REQUIREMENT.sub(
        lambda found: f"{found[1]}{found[2]}{found[3]} >= {pins[_plain(found[2])]}", setup
    )


def _plain(name: str) -> str:
    # PEP 503.
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Rewrite the setup.cfg of the server and that of the client."""
    constraints = (ROOT / "constraints.txt").read_text()
    for setup in SETUPS:
        setup.write_text(raised(setup.read_text(), constraints))
    return 0


if __name__ == "__main__":
    sys.exit(main())
