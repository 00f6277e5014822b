"""What Linux lets a process say of itself; see prctl(2).

It needs only the standard library: the supervisors of the process executor import it too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

# From linux/prctl.h.
_SET_DUMPABLE = 4
_SET_CHILD_SUBREAPER = 36


def hide() -> None:
    """Keep other processes of this user out of the memory and ``/proc/PID/environ`` of this one.

    Root and debuggers with CAP_SYS_PTRACE still see them. There is no core dump either. What this
    process executes later is not hidden.
    """
    _prctl(_SET_DUMPABLE, 0)


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent ends, however it left its group."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def children() -> Iterator[int]:
    """The children of this process, zombies among them."""
    parent = str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # Field 2, the command, may hold blanks and parentheses.
                if file.read().rpartition(b")")[2].split()[1] == parent:
                    yield int(name)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _prctl(option: int, value: int) -> None:
    # Without it nothing fails: an old kernel, or another system.
    function = getattr(ctypes.CDLL(None), "prctl", None)
    if function is not None:
        function(option, value, 0, 0, 0)
