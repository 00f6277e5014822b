"""The executor whose runs are containers on Docker hosts."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from fastlane.errors import (
    ExecutorError,
    HostUnavailable,
    NotStarted,
    PullFailed,
    RemovedUnstarted,
    RunVanished,
    StartFailed,
)
from fastlane.executors.base import ListedRun, LogBatch, Phase, RunSpec, RunState
from fastlane.executors.docker.container import (
    EXECUTION_LABEL,
    GOING,
    INSTALLATION_LABEL,
    LogLimits,
    container_config,
    container_name,
    ended_name,
    is_run_of,
    listed_run,
    phase_of,
    run_state,
)
from fastlane.executors.docker.credentials import Login, login_of_docker
from fastlane.executors.docker.ends import (
    UNSEEN_END,
    end_by_answer,
    engine_time,
    saw_end,
    was_signalled,
)
from fastlane.executors.docker.engine import SLOW_CALL_SECONDS, Engine, Refused
from fastlane.executors.docker.engines import Engines, OnEngines
from fastlane.executors.docker.farms import options_of
from fastlane.executors.docker.limits import Limits
from fastlane.executors.docker.logs import (
    follow_logs,
    init_failure,
    vanished_or,
)
from fastlane.executors.docker.networks import PREFIX, Networks
from fastlane.executors.docker.pull import Pulls
from fastlane.executors.docker.refusals import CANNOT_EXECUTE, is_the_jobs
from fastlane.executors.docker.registries import Registries
from fastlane.model import Network
from fastlane.pause import Pause
from fastlane.resolver import Resolve

# Bounds one wait for the end of a run, after which the run is inspected and waited for again: a
# half-open connection would hang forever.
WAIT_SECONDS = 15.0
# Bound the pauses of a wait that the engine ends at once, as for a run that was not started yet.
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 2.0
# Bounds the wait for a name that an earlier container still has, and its steps.
NAME_TAKEN_SECONDS = 15.0
NAME_TAKEN_STEP_SECONDS = 0.2
# Added to the grace period of a stop before the call itself times out.
STOP_MARGIN_SECONDS = 30.0
# Bound how long a restart by someone else may stay in its gap: the looks at an ended run.
LOOKS_SECONDS = (0.02, 0.1, 0.3, 0.6, 1.0)
# Bounds the runs that are remembered as started.
MAX_BEGUN = 10_000
# Bounds the attempts to stop a run that others start at the same time.
STOP_ATTEMPTS = 5


class DockerExecutor(OnEngines):
    """Runs each execution as a container.

    Hosts are written ``unix:///var/run/docker.sock``, ``tcp://host:port`` or ``host:port``.

    :param tls: for each host that uses TLS, how. ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH``
        are obeyed for the host in ``DOCKER_HOST``, as ``docker`` does.
    :param log_limits: how much log a host keeps of one container.
    :param login: finds a login for images whose farm has none; Docker's own config file by default.
    :param registries_allowed: registries to pull from although they have no public address.
    :param resolve: resolves the names of registries; by the system's resolver by default.
    """

    name = "docker"

    def __init__(
        self,
        *,
        tls: Mapping[str, ssl.SSLContext] | None = None,
        log_limits: LogLimits | None = None,
        login: Login = login_of_docker,
        registries_allowed: Sequence[str] = (),
        resolve: Resolve | None = None,
    ) -> None:
        self._installation = ""
        self._log_limits = log_limits or LogLimits()
        self._engines = Engines(tls)
        self._networks = Networks()
        self._limits = Limits()
        self._pulls = Pulls(login, Registries(registries_allowed, login, resolve))
        # Runs that were seen started, oldest first, until they are removed.
        self._begun: dict[str, None] = {}

    async def open(self, installation: str) -> None:
        """Nothing is connected before it is needed."""
        self._installation = installation

    async def close(self) -> None:
        await self._pulls.close()
        await self._engines.close()

    async def pull(self, host: str, spec: RunSpec, progress: Callable[[str], None]) -> None:
        await self._pulls.pull(
            self._engines.of(host), spec.image, spec.pull_policy, options_of(spec), progress
        )

    async def create(self, host: str, spec: RunSpec) -> str:
        engine = self._engines.of(host)
        network = None
        if spec.network is Network.ISOLATED:
            network = await self._networks.make(engine, spec, self._installation)
        try:
            run_id = await self._create(engine, spec, network)
        except (PullFailed, StartFailed):
            if network is not None:
                # What cannot be removed now is swept later.
                with suppress(HostUnavailable):
                    await self._networks.remove(engine, f"{PREFIX}{network}")
            raise
        if network is not None:
            self._networks.note(run_id, network)
        return run_id

    async def _create(self, engine: Engine, spec: RunSpec, network: str | None) -> str:
        host = engine.host
        body = container_config(
            spec,
            installation=self._installation,
            log_limits=self._log_limits,
            network=network,
        )
        body["HostConfig"] |= await self._limits.host_config(engine, spec)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + NAME_TAKEN_SECONDS
        while True:
            try:
                created = await engine.call(
                    "POST",
                    "containers/create",
                    params={"name": container_name(spec.execution_id)},
                    body=body,
                    seconds=SLOW_CALL_SECONDS,
                )
                with engine.understood("a create"):
                    return str(created["Id"])
            except Refused as refused:
                if self._limits.refused(engine, refused, body):
                    del body["HostConfig"]["StorageOpt"]
                    continue
                if refused.status == 404 and "no such image" in refused.reason.lower():
                    raise PullFailed(f"Image {spec.image} is not on host {host}.") from refused
                if refused.status in (400, 404) or is_the_jobs(
                    refused.status, refused.whole_reason
                ):
                    raise StartFailed(
                        f"Host {host} refused the container: {refused.reason}"
                    ) from refused
                if refused.status != 409:
                    raise
                taken = refused
            # The name is ours, so this is an earlier call's container, or it is on its way out.
            details = await self._details(engine, container_name(spec.execution_id))
            if details is not None and details["State"]["Status"] not in GOING:
                if self._is_run_of(details, spec.execution_id):
                    return str(details["Id"])
                raise StartFailed(f"Another container on host {host} has the name of this run.")
            if loop.time() > give_up_at:
                raise HostUnavailable(host, f"an old container remains: {taken.reason}") from taken
            await asyncio.sleep(NAME_TAKEN_STEP_SECONDS)

    async def find(self, host: str, execution_id: str) -> RunState | None:
        """See ``Executor.find``; by its labels, since anyone can rename a container."""
        engine = self._engines.of(host)
        found = await self._list(engine, f"{EXECUTION_LABEL}={execution_id}")
        with engine.understood("a list"):
            runs = [
                each
                for each in found
                if each["State"] not in GOING
                and f"/{ended_name(execution_id)}" not in each["Names"]
            ]
            # There is another where it was renamed before its owner asked for it once more.
            runs.sort(key=lambda each: (phase_of(each["State"]) is Phase.CREATED, each["Created"]))
        for each in runs:
            with suppress(RunVanished):
                details = await self._present(host, each["Id"])
                self._networks.note(each["Id"], details)
                return self._seen(run_state(details))
        return None

    async def start(self, host: str, run_id: str) -> None:
        # The engine would run an ended container once more. It answers this after a start that is
        # in progress (both take the container's lock), so a start whose answer was lost is seen.
        try:
            if (await self.inspect(host, run_id)).phase is not Phase.CREATED:
                return
        except RunVanished as gone:
            raise RemovedUnstarted(str(gone)) from gone
        engine = self._engines.of(host)
        try:
            await engine.call("POST", f"containers/{run_id}/start", seconds=SLOW_CALL_SECONDS)
            self._remember_begun(run_id)
        except Refused as refused:
            gone_or_refused = vanished_or(refused, run_id)
            if isinstance(gone_or_refused, RunVanished):
                # Or a part of it is missing, such as its network.
                await self._present(host, run_id, RemovedUnstarted)
            details = await self._present(host, run_id)
            if refused.status == 409:
                raise gone_or_refused from refused
            if phase_of(details["State"]["Status"]) is not Phase.CREATED:
                raise
            code = details["State"]["ExitCode"]
            if not is_the_jobs(refused.status, refused.whole_reason, code):
                raise NotStarted(
                    host, f"the engine answered {refused.status}: {refused.reason}"
                ) from refused
            if code in CANNOT_EXECUTE:
                raise StartFailed(
                    f"The command cannot be executed: {refused.reason}", code
                ) from refused
            raise StartFailed(f"The container cannot be set up: {refused.reason}") from refused

    async def inspect(self, host: str, run_id: str) -> RunState:
        return self._seen(run_state(await self._present(host, run_id)))

    async def wait(self, host: str, run_id: str) -> RunState:
        """See ``Executor.wait``.

        :raises StartFailed: the container's init could not execute the command, which no engine
            knows when it answers a start.
        """
        engine = self._engines.of(host)
        pause = Pause(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            answer = None
            try:
                answer = await engine.call(
                    "POST",
                    f"containers/{run_id}/wait",
                    params={"condition": "not-running"},
                    seconds=WAIT_SECONDS,
                    long=True,
                )
            except Refused as refused:
                raise vanished_or(refused, run_id) from refused
            except HostUnavailable as unavailable:
                if not isinstance(unavailable.__cause__, TimeoutError):
                    raise
                # This detects a frozen host within seconds; an inspect would take its full limit.
                await self.check(host)
            try:
                state = await self.inspect(host, run_id)
            except RunVanished:
                end = end_by_answer(run_id, answer) if run_id in self._begun else None
                if end is None:
                    raise
                return end
            if state.phase is Phase.ENDED:
                await self._raise_if_not_its_own_end(engine, state)
                return state
            if answer is not None:
                await pause.wait()

    async def is_last(self, host: str, end: RunState) -> bool:
        """See ``Executor.is_last``: ``docker restart`` passes through an end.

        Nothing is looked at twice where the engine has sent the container no signal. An engine that
        starts a container does not answer an inspect before it is started, so the gap is short.
        """
        if not await was_signalled(self._engines.of(host), end):
            return True
        for seconds in LOOKS_SECONDS:
            await asyncio.sleep(seconds)
            try:
                now = await self.inspect(host, end.run_id)
            except ExecutorError:
                # The end is known, and nothing else is.
                return True
            if now.phase is not Phase.ENDED or now.started_at != end.started_at:
                return False
        return True

    async def ran_seconds(self, host: str, run_id: str) -> float:
        """See ``Executor.ran_seconds``: the age of the container's oldest process."""
        engine = self._engines.of(host)
        try:
            # By `ps`, which counts from the boot of the host, in whole seconds at either end.
            table = await engine.call(
                "GET", f"containers/{run_id}/top", params={"ps_args": "-o pid,etimes"}
            )
            with engine.understood("the processes of a container"):
                return max(0.0, max(float(age) for _, age in table["Processes"]) - 1)
        except Refused:
            # The host has no such `ps`, or the run has ended.
            details = await self._present(host, run_id)
            return await seconds_since(engine, run_state(details).started_at)

    async def logs(
        self, host: str, run_id: str, *, bookmark: str, ended: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        async def inspect() -> Mapping[str, Any]:
            return await self._present(host, run_id)

        batches = follow_logs(
            self._engines.of(host), run_id, bookmark=bookmark, ended=ended, inspect=inspect
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def stop(self, host: str, run_id: str, *, grace_seconds: float) -> None:
        engine = self._engines.of(host)
        for _ in range(STOP_ATTEMPTS):
            await stop_container(engine, run_id, grace_seconds)
            try:
                state = await self.inspect(host, run_id)
                if state.phase is Phase.CREATED:
                    # A container that is gone is the only one that can never be started.
                    await self.remove(host, run_id)
                    return
            except RunVanished:
                return
            except Refused as refused:
                # Somebody started it in the meantime.
                if refused.status != 409:
                    raise
            else:
                if state.phase is Phase.ENDED:
                    return
        raise HostUnavailable(host, f"container {run_id[:12]} does not stop")

    async def remove(self, host: str, run_id: str) -> None:
        engine = self._engines.of(host)
        self._begun.pop(run_id, None)
        try:
            await engine.call(
                "DELETE", f"containers/{run_id}", params={"v": "1"}, seconds=SLOW_CALL_SECONDS
            )
        except Refused as refused:
            if not isinstance(vanished_or(refused, run_id), RunVanished):
                raise
        await self._networks.remove(engine, run_id)

    async def archive(self, host: str, run_id: str) -> None:
        try:
            details = await self._present(host, run_id)
            execution_id = (details["Config"]["Labels"] or {}).get(EXECUTION_LABEL, run_id)
            name = ended_name(execution_id)
            if details["Name"] != f"/{name}":
                await self._engines.of(host).call(
                    "POST", f"containers/{run_id}/rename", params={"name": name}
                )
            await self._networks.remove(self._engines.of(host), run_id)
        except RunVanished:
            return
        except Refused as refused:
            if isinstance(vanished_or(refused, run_id), RunVanished):
                return
            raise

    async def disk_bytes(self, host: str, run_id: str) -> int | None:
        try:
            return await self._limits.disk_bytes(self._engines.of(host), run_id)
        except Refused as refused:
            raise vanished_or(refused, run_id) from refused

    async def runs(self, host: str) -> Sequence[ListedRun]:
        engine = self._engines.of(host)
        found = await self._list(engine)
        with engine.understood("a list"):
            listed = [
                listed_run(each["Labels"], each["Id"], phase_of(each["State"]))
                for each in found
                if each["State"] not in GOING and EXECUTION_LABEL in each["Labels"]
            ]
        having = {each.execution_id for each in listed}
        return [*listed, *await self._networks.orphans(engine, self._installation, having)]

    async def _list(self, engine: Engine, *labels: str) -> Sequence[Mapping[str, Any]]:
        """This installation's containers with *labels*."""
        labels = (f"{INSTALLATION_LABEL}={self._installation}", *labels)
        filters = json.dumps({"label": labels})
        found: Sequence[Mapping[str, Any]] = await engine.call(
            "GET", "containers/json", params={"all": "1", "filters": filters}
        )
        return found

    def _seen(self, state: RunState) -> RunState:
        if state.phase is not Phase.CREATED:
            self._remember_begun(state.run_id)
        return state

    def _remember_begun(self, run_id: str) -> None:
        self._begun[run_id] = None
        if len(self._begun) > MAX_BEGUN:
            del self._begun[next(iter(self._begun))]

    async def _details(self, engine: Engine, name: str) -> Mapping[str, Any] | None:
        try:
            details: Mapping[str, Any] = await engine.call("GET", f"containers/{name}/json")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        with engine.understood("a look at a container"):
            # All that is made of it anywhere is made of these.
            run_state(details)
            dict(details["Config"])
        return details

    async def _present(
        self, host: str, run_id: str, error: type[RunVanished] = RunVanished
    ) -> Mapping[str, Any]:
        """:raises RunVanished: as *error*: the container was removed, or is being removed."""
        details = await self._details(self._engines.of(host), run_id)
        if details is None:
            raise error(f"container {run_id[:12]} is no longer on host {host}")
        if details["State"]["Status"] in GOING:
            raise error(f"container {run_id[:12]} is being removed from host {host}")
        return details

    def _is_run_of(self, details: Mapping[str, Any], execution_id: str) -> bool:
        return is_run_of(details["Config"]["Labels"], self._installation, execution_id)

    async def _raise_if_not_its_own_end(self, engine: Engine, state: RunState) -> None:
        """Tell a command that does not exist from one that exits with 126 or 127 itself, and one
        that ended with its machine from one that exits with 255.
        """
        if state.exit_code in CANNOT_EXECUTE:
            # Without its log nothing speaks for that.
            with suppress(RunVanished):
                if message := await init_failure(engine, state.run_id):
                    raise StartFailed(f"The command cannot be executed: {message}", state.exit_code)
        elif state.exit_code == UNSEEN_END and not await saw_end(engine, state):
            raise RunVanished(
                "its engine or machine went down while it ran, and nobody saw it end "
                f"(exit code {UNSEEN_END})"
            )


async def seconds_since(engine: Engine, time: float | None) -> float:
    """Seconds from *time* of the engine's wall clock until now by the same clock."""
    return 0.0 if time is None else max(0.0, await engine_time(engine) - time)


async def stop_container(engine: Engine, container: str, grace_seconds: float) -> None:
    """Stop a container and wait for its end; one that is stopped or gone is not an error.

    :raises HostUnavailable: the engine did not answer, or could not do it.
    """
    try:
        await engine.call(
            "POST",
            f"containers/{container}/stop",
            params={"t": str(math.ceil(grace_seconds))},
            seconds=grace_seconds + STOP_MARGIN_SECONDS,
            long=True,
        )
    except Refused as refused:
        if refused.status not in (404, 409):
            raise
