"""Where a scenario runs: one server on SQLite, or three instances on MongoDB and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from pymongo import MongoClient

from tests.cluster.instances import Cluster, Servers, Single, database_url
from tests.services import MongoServer, RedisServer


class Place(Protocol):
    """Makes the servers of a test, in its own directory and database."""

    where: str

    def servers(self, **options: Any) -> Servers:
        """Not started yet; *options* as of :class:`Servers`."""


class OnSQLite:
    """One server."""

    where = "SQLite"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def servers(self, **options: Any) -> Servers:
        """See :class:`Place`."""
        return Single(self._directory, **options)


class OnCluster:
    """Three instances."""

    where = "cluster"

    def __init__(self, directory: Path, mongodb_url: str, redis_url: str) -> None:
        self._directory = directory
        self._urls = mongodb_url, redis_url

    def servers(self, **options: Any) -> Servers:
        """See :class:`Place`."""
        return Cluster(self._directory, *self._urls, **options)


@pytest.fixture
def on_cluster(
    tmp_path: Path, mongo_server: MongoServer, redis_server: RedisServer
) -> Iterator[OnCluster]:
    """Three instances on a database of the test's own."""
    url = database_url(mongo_server, tmp_path)
    yield OnCluster(tmp_path, url, redis_server.url)
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture(params=["SQLite", pytest.param("cluster", marks=pytest.mark.faults)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Both of them, one after the other; in `make test` SQLite alone."""
    if request.param == "SQLite":
        return OnSQLite(tmp_path)
    found: Place = request.getfixturevalue("on_cluster")
    return found
