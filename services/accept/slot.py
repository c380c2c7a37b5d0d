"""Watching the replication slot that this producer's outbox is read through, from outside its reader."""

import asyncio
import contextlib
from typing import Final

from services.bootstrap import Process
from services.http.database import Database
from services.http.problem import Problem
from services.storage.slots import HELD

EVERY_S: Final = 1.0


async def watch_slot(process: Process, database: Database) -> None:
    """Say how much write-ahead log the slot holds back, and when that crosses its bound, until cancelled.

    A slot that went over the server's own bound is gone, and holds nothing: still over, until there is a new one.
    """
    bound_bytes = process.settings.slot_lag_bound_mb << 20
    over = False
    while True:
        with contextlib.suppress(Problem):  # the database is away: the next look will tell
            row = await database.row(HELD)
            held_bytes, gone = (row["bytes"], row["invalidated"]) if row else (0, True)
            if over != (over := gone or held_bytes > bound_bytes):
                fields = {"held_bytes": held_bytes, "over": over, "gone": gone}
                process.log.event("slot.lag", level="warning" if over else "info", **fields)
        await asyncio.sleep(EVERY_S)
