"""What Linux lets a process say of itself; see prctl(2).

It needs only the standard library: the supervisors of the process executor import it too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator

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
    for pid, content in _all("stat"):
        # Field 2, the command, may hold blanks and parentheses.
        if content.rpartition(b")")[2].split()[1] == parent:
            yield pid


def with_environment(variables: Collection[bytes]) -> list[int]:
    """The processes that were given one of the *variables*, each as ``NAME=value``."""
    wanted = set(variables)
    return [pid for pid, content in _all("environ") if not wanted.isdisjoint(content.split(b"\0"))]


def _all(name: str) -> Iterator[tuple[int, bytes]]:
    """That file of each process that may be read; see proc(5)."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                content = file.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        yield int(pid), content


def _prctl(option: int, value: int) -> None:
    # Without it nothing fails: an old kernel, or another system.
    function = getattr(ctypes.CDLL(None), "prctl", None)
    if function is not None:
        function(option, value, 0, 0, 0)
