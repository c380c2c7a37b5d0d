"""The replication slot of a database: named as the database, one each; its state beside it in the table `progress`."""

from typing import Any, Final

# How much write-ahead log the slot of this database keeps the server from removing; an invalidated one keeps nothing.
HELD: Final = """
SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint AS bytes,
       invalidation_reason IS NOT NULL AS invalidated
FROM pg_replication_slots WHERE slot_name = current_database()
"""
# Invalidated: it held back more than max_slot_wal_keep_size.
_USABLE: Final = """
SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = current_database() AND invalidation_reason IS NULL)
"""
_DROP: Final = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = current_database()
"""
_MAKE: Final = "SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')"
# Before the slot is made: whoever dies after that leaves word that what the new slot does not know is to be published.
_FORGET: Final = "UPDATE progress SET snapshot = NULL, republish = true"


async def ensure_slot(connection: Any) -> bool:
    """Make the slot of this database, unless there is one that can be read. Returns whether it was made.

    Whoever reads it publishes all kept rows first when `progress.republish` is set.
    """
    if await connection.fetchval(_USABLE):
        return False
    await connection.execute(_FORGET)
    await drop_slot(connection)
    await connection.fetchval(_MAKE)
    return True


async def drop_slot(connection: Any) -> None:
    """Drop the slot of this database, if there is one. Raises asyncpg.ObjectInUseError while it is read."""
    await connection.fetchval(_DROP)
