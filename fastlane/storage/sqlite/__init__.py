"""The embedded storage: one SQLite file, owned by one server.

All writes go through one thread that commits them in groups (:mod:`.writer`); reads have their own
connections and never wait for a write. (aiosqlite was considered: it costs one thread hop for
every statement and has no group commit, so each write would pay for its own fsync.)

===============  ==================================================================
schema.py        the tables, indexes and triggers, and how a connection is set up
records.py       rows to frozen records and back
writer.py        the group commit, and the readers' pool
operations.py    every write, as a function of a connection
log.py           the log's chunks: append, cap, read, tail
queries.py       every read, as a function of a connection
storage.py       :class:`SqliteStorage`, which hands the functions to the threads
===============  ==================================================================
"""

from fastlane.storage.sqlite.storage import SqliteStorage

__all__ = ["SqliteStorage"]
