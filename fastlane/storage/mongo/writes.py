"""How the collections are written: what a document is, when a write counts, what is committed."""

from __future__ import annotations

from typing import Any

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

Doc = dict[str, Any]
Collection = AsyncCollection[Doc]

COMMIT = WriteConcern(w="majority", j=True)
"""For the write that decides an operation: on the disks of most members when it returns."""
FOLLOW = WriteConcern(w="majority")
"""For what a ``todo`` that is committed already would make good."""
HINT = WriteConcern(w=1)
"""For what may be lost: it is found out and done again."""
COMMITTED = ReadConcern("majority")
"""For every read: what it shows, no fail-over undoes.

A primary that is cut off still has, for some seconds, writes that its successor never sees. It
costs nothing: the server does not wait, and answers from the snapshot that most members have.
"""


async def confirm(collection: Collection) -> None:
    """Wait until all that was written so far is committed on most members.

    An update that matches nothing waits for what the server wrote before it, as any other does.

    :raises PyMongoError: this does not happen in time; a fail-over may undo some of it.
    """
    await collection.with_options(write_concern=COMMIT).update_one(
        {"_id": None}, {"$unset": {"none": ""}}
    )


async def insert(collection: Collection, doc: Doc) -> bool:
    """Store *doc*; False when there is a committed one with its id, or another unique value of it.

    :raises PyMongoError: it is not known whether it is committed, or whether the other one is: the
        server's answer to a duplicate does not say.
    """
    try:
        await collection.insert_one(doc)
    except DuplicateKeyError:
        await confirm(collection)
        return False
    return True


async def swap(collection: Collection, old: Doc, new: Doc) -> bool:
    """Put *new* in the place of *old* unless that has changed; *new* gets the next ``rev``.

    When it has changed, that change is committed on return, so the next read shows it.

    :return: whether *old* was still there.
    """
    new["rev"] = old["rev"] + 1
    changed = {name: value for name, value in new.items() if name not in old or old[name] != value}
    gone = {name: "" for name in old if name not in new}
    update: Doc = {"$set": changed}
    if gone:
        update["$unset"] = gone
    result = await collection.update_one({"_id": old["_id"], "rev": old["rev"]}, update)
    return result.matched_count == 1
