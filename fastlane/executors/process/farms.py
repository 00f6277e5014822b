"""The options of a farm of processes: only the names of its hosts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from fastlane.executors.base import Capabilities, Executor, ExecutorFactory, Settings
from fastlane.model import Farm

DEFAULT_HOST = "localhost"


class ProcessFactory(ExecutorFactory):
    """Plain processes of this machine. A host is a label, such as ``localhost``."""

    name = "process"
    schemes = frozenset({"process"})
    capabilities = Capabilities(
        isolated=False, images=False, limits=frozenset({"memory"}), networks=frozenset()
    )

    def default_host(self, settings: Settings) -> tuple[str, str | None]:
        return DEFAULT_HOST, None

    def warnings(self, settings: Settings, farm: Farm) -> Iterable[str]:
        if os.geteuid() == 0:
            yield (
                f'Farm "{farm.name}" runs its commands as root, because the server does: they can '
                "read the server's environment and everything on this machine; run the server as "
                "another user."
            )

    def make(self, settings: Settings, farms: Sequence[Farm]) -> Executor:
        from fastlane.executors.process.executor import ProcessExecutor

        return ProcessExecutor(data_dir=settings.data_dir, in_use=bool(farms))
