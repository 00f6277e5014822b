"""Which routes have a page beside their JSON."""

from __future__ import annotations

from collections.abc import Mapping

from fastlane.api.pages.execution import ExecutionPage
from fastlane.api.pages.job import JobPage
from fastlane.api.pages.lists import ExecutionsPage, JobsPage
from fastlane.api.pages.overview import OverviewPage
from fastlane.api.pages.page import Page
from fastlane.api.pages.server import AboutPage, HostsPage, NotificationsPage
from fastlane.api.pages.tasks import TaskPage, TasksPage

PAGES: Mapping[str, type[Page]] = {
    "": OverviewPage,
    "/tasks": TasksPage,
    "/search": TasksPage,
    "/tasks/<task>": TaskPage,
    "/tasks/<task>/jobs/<job>": JobPage,
    "/tasks/<task>/jobs/<job>/executions/<execution>": ExecutionPage,
    "/notifications": NotificationsPage,
    "/status": AboutPage,
    "/executions": ExecutionsPage,
    "/hosts": HostsPage,
    "/jobs": JobsPage,
}
