"""The cluster storage: records in MongoDB, which are the truth.

No operation needs a multi-document transaction (a standalone mongod has none). Each has one
document write that decides it, by compare-and-set on the document's ``rev``. What else is to be
written is stored in the same write as the document's *follow-up* (field ``todo``). The one who
finds a follow-up completes it: normally the operation itself, else the next operation on that
document, or the sweep after a crash. Completing may be repeated, also by several at once.

===============  ==================================================================
storage.py       :class:`ClusterStorage`: the connection, the facets, and the sweep's loop
facet.py         ``@operation``: tracks what is in flight, and translates the driver's errors
tasks.py …       one module per facet
follow_ups.py    completing the follow-ups of jobs and executions
retention.py     removing what is old
sweep.py         repairs what crashes and fail-overs leave behind
records.py       documents to frozen records and back
database.py      collections and their indexes, compare-and-set, the sequence allocator
===============  ==================================================================
"""

from fastlane.storage.mongo.storage import ClusterStorage

__all__ = ["ClusterStorage"]
