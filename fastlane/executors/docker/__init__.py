"""Runs executions as containers on Docker hosts."""

from fastlane.executors.docker.executor import DockerExecutor

__all__ = ["DockerExecutor"]
