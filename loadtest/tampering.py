"""Tampering: what no process of a lab does to its stores, done on purpose, so that one sees the auditor notice it.

An arm keeps its promises under every fault that it was built for; how a broken one looks (a page, its runbook, the
audit's evidence) can be seen this way. Nothing puts it right again: the audit says it for as long as the lab lives.
"""

from pathlib import Path
from typing import Final

import asyncpg

from services.domain.arms import ConsumerArm
from services.settings import Settings
from services.storage.postgres import AWAY, connect, statements

MAX_COUNT: Final = 1_000
_SQL: Final = statements(Path(__file__).parent / "tampering.sql")


class TamperingError(Exception):
    """Nothing was done; the message says why."""


async def tamper(settings: Settings, kind: str, arm: ConsumerArm, effect: str, count: int) -> list[str]:
    """Do it to the newest applied effects of the arm; returns the message ids, fewer than `count` if there are fewer.

    All or nothing. Raises TamperingError when there is nothing to do it to, when a constraint refuses it, or when the
    store does not answer.
    """
    in_table = effect == "record"
    server, database = (settings.postgres, "payments") if in_table else (settings.ledger, "provider")
    # the schema's name comes from the code's own table, never from input
    query = _SQL[f"{kind}_{'record' if in_table else 'call'}"].replace("{schema}", arm.schema)
    try:
        connection = await connect(server, database, name="tampering")
        try:
            rows = await connection.fetch(query, count, *(() if in_table else (arm.name, effect)), timeout=10)
        finally:
            await connection.close(timeout=5)
    except asyncpg.UniqueViolationError as error:
        raise TamperingError(
            f"the unique constraint {error.constraint_name} of {arm.name} refuses it: this is what it is for"
        ) from error
    except AWAY as error:
        raise TamperingError(f"the database {database} does not do it: {error or type(error).__name__}") from error
    if not rows:
        raise TamperingError(f"{arm.name} has applied no {effect} yet: send some with `lab load`")
    return [row["id"] for row in rows]
