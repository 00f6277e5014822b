"""The records of the cluster storage, in MongoDB. What is written here is the truth.

No operation needs a multi-document transaction (a standalone mongod has none). Each has one
document write that decides it, by compare-and-set on the document's ``rev``; what else is to be
written stands in the same write as the document's ``todo``. Whoever finds a ``todo`` completes it:
the operation itself in the normal case, the next operation on that document, or the sweep behind
a crash. Completing may be repeated, also by several at once.

===============  ==================================================================
database.py      the connection, the collections and their indexes, compare-and-set
records.py       documents to frozen records and back
todo.py          completing what a job's or an execution's ``todo`` says
jobs.py          submit, tick, stop and retry of jobs
executions.py    claim (with the slots of ``maxRunning``), start, finish, stop, adopt
log.py           the log: appended under fencing, capped, read
outbox.py        deliveries
farms.py         hosts, stray queues, forgetting what is old
queries.py       every other read
sweep.py         what makes good for crashes and fail-overs
===============  ==================================================================
"""
