"""The embedded storage: one SQLite file, owned by one server.

All writes go through one thread that commits them in groups (:mod:`.writer`); reads have their own
connections and never wait for a write. (aiosqlite was considered: it costs one thread hop for
every statement and has no group commit, so each write would pay for its own fsync.)

===============  ==================================================================
storage.py       :class:`SqliteStorage`: the file, the facets, and what concerns several of them
facet.py         ``@on_reader`` and ``@on_writer``: from a function of a connection to an operation
tasks.py …       one module per facet: its queries, and its methods
changes.py       the steps that several writes share
records.py       rows to frozen records and back
schema.py        the tables, indexes and triggers
connections.py   how a connection is set up, and the file brought up to date
writer.py        the group commit, and the pool of readers
===============  ==================================================================
"""

from fastlane.storage.sqlite.storage import SqliteStorage

__all__ = ["SqliteStorage"]
