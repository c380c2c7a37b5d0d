"""Watching the replication slot that this producer's outbox is read through, from outside its reader."""

import asyncio
import contextlib
from typing import Final

from services.bootstrap import Process
from services.http.database import Database
from services.http.problem import Problem
from services.storage.slots import HELD

EVERY_S: Final = 1.0


async def watch_slot(process: Process, database: Database, arm: str) -> None:
    """Say how much write-ahead log the slot holds back, and when that crosses its bound, until cancelled."""
    bound_bytes = process.settings.slot_lag_bound_mb << 20
    over = False
    while True:
        with contextlib.suppress(Problem):  # the database is away: the next look will tell
            row = await database.row(HELD)
            held_bytes = int(row["bytes"] or 0) if row else 0
            process.metrics.set("delivery.slot_lag", held_bytes, arm=arm)
            if over != (over := held_bytes > bound_bytes):
                process.log.event("slot.lag", level="warning" if over else "info", held_bytes=held_bytes, over=over)
        await asyncio.sleep(EVERY_S)
