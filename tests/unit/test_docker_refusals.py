"""Whose fault a container is that could not be set up, by the words of the engine."""

from __future__ import annotations

import pytest

from fastlane.errors import HostUnavailable
from fastlane.executors.docker.engine import Engine, Refused
from fastlane.executors.docker.refusals import is_the_jobs

RUNC = (
    "failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: "
)
INIT = f"{RUNC}error during container init: "
CGROUP = f"{INIT}error setting cgroup config for procHooks process: failed to write"
MERGED = "/var/lib/docker/overlay2/62940a/merged"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (500, 128, "unable to find user nosuch: no matching entries in passwd file"),
        (500, 128, "unable to find group no space left on device: no matching entries in group"),
        (500, 128, f"unable to find user joe: read {MERGED}/etc/passwd: is a directory"),
        (500, 128, "uids and gids must be in range 0-2147483647"),
        (500, None, "Cannot mkdir: /bin/busybox is not a directory"),
        (500, None, f"cannot mount volume over existing file, file exists {MERGED}/bin/busybox"),
        (500, None, f"evalSymlinksInScope: too many links in {MERGED}/w/x"),
        (500, 128, f'{CGROUP} "100": write /sys/fs/cgroup/cpu/docker/6/cpu.cfs_quota_us: '
                   "invalid argument: unknown"),
        (500, 128, f'{CGROUP} "1": write /sys/fs/cgroup/pids/docker/a/pids.max: numerical result '
                   "out of range: unknown"),
        (500, 128, f"{INIT}environment variable value can't contain null(\\x00): "
                   '"A=no space left on device\\" \\x00c": unknown'),
        (500, 128, f'{INIT}error mounting "/x/_data" to rootfs at "/proc": "{MERGED}/proc" cannot '
                   "be mounted because it is not of type proc: unknown"),
        (500, 128, f'{INIT}error mounting "/usr/bin/docker-init" to rootfs at "/sbin/docker-init": '
                   f"SecureJoin {MERGED}//sbin/docker-init: too many levels of symbolic links"),
        (500, 128, f"{INIT}error mounting: mount /v/hooks:/etc/seccomp (via /proc/self/fd/6), "
                   "flags: 0x5000: not a directory: unknown"),
        (500, 128, "OCI runtime create failed: container_linux.go:380: starting container process "
                   "caused: process_linux.go:545: container init caused: process_linux.go:508: "
                   "setting cgroup config for procHooks process caused: container init was "
                   "OOM-killed (memory limit too low?): unknown"),
        (500, None, f"lstat {MERGED}/file/below: not a directory"),
        (500, 128, f"{INIT}unable to set memory limit to 6291456 (current usage: 7000000, peak "
                   "usage: 7100000): device or resource busy: unknown"),
        (400, 127, f'{RUNC}exec: "nope": executable file not found in $PATH: unknown'),
        (400, 126, f'{RUNC}exec: "/etc/hosts": permission denied: unknown'),
        (400, 127, f'{RUNC}exec: "runc: signal: killed": stat /fork/exec: no such file: unknown'),
        (500, 127, 'oci runtime error: exec: "x": no such file or directory'),
    ],
)  # fmt: skip
def test_the_jobs_own(status: int, code: int | None, message: str) -> None:
    assert is_the_jobs(status, message, code)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (500, 128, f"{INIT}write {MERGED}/etc/x: no space left on device: unknown"),
        (500, None, f"mkdir {MERGED}/x: no space left on device"),
        (500, 128, f"{INIT}fork/exec /proc/self/exe: cannot allocate memory: unknown"),
        (500, 128, f"{RUNC}error closing exec fds: open /proc/self/fd: too many open files"),
        (500, 128, f"{RUNC}can't get final child's PID from pipe: EOF: unknown"),
        (500, 128, f"{INIT}read init-p: connection reset by peer: unknown"),
        (500, 128, f"{INIT}error running hook #0: error running hook: exit status 1, stdout: , "
                   "stderr: failed to add interface veth1: unknown"),
        (500, 128, f"{INIT}error setting rlimit type 7: operation not permitted: unknown"),
        (500, 128, f'{CGROUP} "4096": open /sys/fs/cgroup/pids/docker/a/pids.max: no such file or '
                   "directory: unknown"),
        (400, 127, f'{CGROUP} "4096": open /sys/fs/cgroup/pids/docker/a/pids.max: no such file or '
                   "directory: unknown"),
        (400, 126, f"{INIT}mkdir /sys/fs/cgroup/memory/docker/a: permission denied: unknown"),
        (500, 128, f"{RUNC}unable to apply cgroup configuration: unable to start unit "
                   '"docker-1.scope": Message recipient disconnected (systemd)'),
        (500, 128, "OCI runtime create failed: cgroups: cgroup mountpoint does not exist: unknown"),
        (500, 128, "failed to create shim task: OCI runtime create failed: container with given ID "
                   "already exists: unknown"),
        (400, 127, "failed to create shim task: OCI runtime create failed: unable to retrieve OCI "
                   "runtime error (open /run/log.json: no such file or directory): exec: "
                   '"runc": executable file not found in $PATH: unknown'),
        (400, 127, 'failed to start shim: start failed: exec: "containerd-shim-runc-v2": '
                   "executable file not found in $PATH: unknown"),
        (500, 128, 'exec: "docker-init": executable file not found in $PATH'),
        (500, 128, "failed to create shim task: context deadline exceeded: unknown"),
        (500, 128, "transport is closing: unavailable"),
        (500, 128, "ttrpc: closed: unknown"),
        (500, 128, 'connection error: desc = "transport: dial unix /run/c.sock": unavailable'),
        (404, 128, "network bridge not found"),
        (500, 128, "failed to create endpoint x on network bridge: adding interface veth1 to "
                   "bridge docker0 failed: could not find bridge docker0: route ip+net"),
        (500, 128, "failed to initialize logging driver: dial tcp 127.0.0.1:9: i/o timeout"),
        (500, 128, "OCI runtime start failed: fork/exec /usr/bin/runc: resource temporarily "
                   "unavailable: unknown"),
        (500, 0, "layer does not exist"),
        (500, 0, "out of order"),
        (503, 0, ""),
    ],
)  # fmt: skip
def test_the_hosts_own(status: int, code: int | None, message: str) -> None:
    assert not is_the_jobs(status, message, code)


@pytest.mark.parametrize(
    "text",
    [
        '"' * 10**6,
        '\\"' * 10**6,
        " /a" * 10**6,
        "/sys/fs/cgroup" * 10**5,
        "Cannot mkdir: " * 10**5,
        "mountpoint for " * 10**5,
        'A=\\"no space left on device\\"' * 10**5,
    ],
    ids=lambda text: text[:20],
)
def test_a_long_message_keeps_its_ends(text: str) -> None:
    refused = Refused("h", 500, f'{INIT}value "{text}": invalid argument')
    assert is_the_jobs(500, refused.whole_reason)
    refused = Refused("h", 500, f"{text}: no space left on device")
    assert not is_the_jobs(500, refused.whole_reason)


async def test_an_engine_that_is_not_there_is_named_once() -> None:
    engine = Engine("unix:///nowhere/docker.sock")
    try:
        with pytest.raises(HostUnavailable) as unavailable:
            await engine.call("GET", "version")
    finally:
        await engine.close()
    assert str(unavailable.value) == (
        "host unix:///nowhere/docker.sock: it cannot be reached (No such file or directory)"
    )
