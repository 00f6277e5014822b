"""Whether the job or the host is the reason why an engine could not set up a container.

Only the message of the engine tells. It answers 400 if a command cannot be executed (with exit code
126 or 127 on the container), and 500 for nearly everything else (exit code 128): for an image whose
user does not exist as for a full disk. What a job causes fails on every host, so the execution ends
at once. What the host causes is retried and counts against the host.

Sources: observations of Docker 20.10 with runc 1.1, and the code of Docker, containerd and runc.
"""

from __future__ import annotations

import re

# The exit codes of shells and engines for a command that cannot be executed.
CANNOT_EXECUTE = (126, 127)

_NAMES = re.compile(
    r"""
      "(?:[^"\\]|\\.)*+(?:"|\Z)
    | (?:^|(?<=[\s:])) / (?!sys/fs/cgroup) [^\s:]*
    """,
    re.VERBOSE | re.DOTALL,
)
"""Quotations and paths, which an image or a job can choose."""

_JOBS = re.compile(
    r"""
      ^unable\ to\ find\ (?:user|group)\ .*:
    | ^uids\ and\ gids\ must\ be\ in\ range
    # The image's working directory, volumes or links.
    | ^Cannot\ mkdir:\ .*\ is\ not\ a\ directory$
    | ^cannot\ mount\ volume\ over\ existing\ file
    | ^evalSymlinksInScope:\ too\ many\ links
    | :\ (?:not\ a\ directory | is\ a\ directory | file\ name\ too\ long)$
    # runc, of a limit that is too low for what it takes to start anything.
    | memory\ limit\ too\ low
    | unable\ to\ set\ memory\ limit
    """,
    re.VERBOSE | re.DOTALL,
)
_HOSTS = re.compile(
    r"""
    # errno(3) of what a host has run out of, or has broken
      no\ space\ left | disk\ quota\ exceeded
    | cannot\ allocate\ memory | out\ of\ memory
    | too\ many\ open\ files | too\ many\ users
    | resource\ (?:temporarily\ unavailable|busy)
    | input/output\ error | read-only\ file\ system | structure\ needs\ cleaning
    | stale\ (?:nfs\ )?file\ handle | no\ such\ device | no\ child\ processes
    | operation\ not\ permitted | function\ not\ implemented | bad\ file\ descriptor
    | interrupted | broken\ pipe | connection\ (?:refused|reset) | not\ connected
    # what stands between the engine and runc
    | deadline\ exceeded | timed?\ ?-?out | context\ canceled
    | transport\ is\ closing | ttrpc | \bgrpc\b | client\ connection | use\ of\ closed
    | failed\ to\ start\ shim | containerd-shim | unable\ to\ retrieve\ oci\ runtime\ error
    | \beof\b | signal:\ | fork/exec | already\ exists
    # what every container of the host needs
    | \bhooks?\b | systemd | \bdbus\b | seccomp | apparmor | selinux | rlimit
    | cgroup\ mountpoint | mountpoint\ for\ \S+\ not\ found
    # a value that the kernel does not take is the job's, anything else about cgroups is not
    | /sys/fs/cgroup\S*:\ (?!invalid\ argument|numerical\ result\ out\ of\ range)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RUNTIME = re.compile(r"\bOCI runtime\b", re.IGNORECASE)


def is_the_jobs(status: int, message: str, exit_code: int | None = None) -> bool:
    """Whether the job's own wishes are why an engine refused to create or to start its container.

    :param status: of the HTTP answer.
    :param message: the engine's, whole: the reason is at its end.
    :param exit_code: what it noted on the container.
    """
    if _JOBS.search(message):
        return True
    if _HOSTS.search(_NAMES.sub("", message)):
        return False
    if status in (400, 403) or exit_code in CANNOT_EXECUTE:
        return True
    return _RUNTIME.search(message) is not None


_PULL_FAILURES = tuple(
    (re.compile(words, re.IGNORECASE), sentence)
    for words, sentence in (
        (r"no space left|disk quota exceeded", "no space left on the disk of the host"),
        # First of those that quote an answer, which may hold any of the words below.
        (
            r"error parsing|unexpected|invalid character|unsupported",
            "the answer is not that of a registry",
        ),
        (
            r"toomanyrequests|rate limit",
            "the registry limits how often images are pulled: try again later",
        ),
        (r"x509|certificate|tls:|HTTP response to HTTPS", "the registry has no valid certificate"),
        (r"no matching manifest", "not found: it has no variant for the platform of the host"),
        (
            r"denied|unauthorized|authentication|no basic auth|forbidden",
            "access denied: the registry requires a login, or does not have the image",
        ),
        (
            r"not found|unknown|no such image|does not exist",
            "not found: the registry does not have the image or the tag",
        ),
        (
            r"no such host|misbehaving|refused|no route|unreachable|timeout|deadline|canceled"
            r"|\beof\b|reset|broken pipe",
            "the registry is unreachable",
        ),
    )
)


def pull_failure(message: str) -> str:
    """Why a pull failed, in words of our own.

    The *message* of an engine may quote the answer of whatever the submitter's image reference led
    to, so no part of it reaches the submitter.
    """
    for pattern, sentence in _PULL_FAILURES:
        if pattern.search(message):
            return sentence
    return "the engine reported another error, which is in the log of the server"
