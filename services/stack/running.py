"""Which arms a lab has: those whose processes are among its parts. All of the tables where that is not known."""

import msgspec

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, PublisherArm
from services.stack.client import NotUp, status
from services.stack.drain import ALL_ARMS, Arms
from services.stack.home import Home
from services.storage.postgres import AWAY, connect

_INTENTS = "SELECT EXISTS (SELECT FROM intents WHERE $1::text IS NULL OR run = $1)"


def arms_of(home: Home) -> Arms:
    """The arms of a lab; of a publisher arm, a producer must be there."""
    try:
        parts = status(home).get("parts")
    except NotUp:
        return ALL_ARMS
    if not parts:
        return ALL_ARMS
    publishers = (arm for arm in PUBLISHER_ARMS.values() if any(arm.producer(kind) in parts for kind in arm.kinds))
    consumers = (arm for arm in CONSUMER_ARMS.values() if f"arm.{arm.name}" in parts)
    return Arms(tuple(publishers), tuple(consumers))


async def with_intents(postgres: str, arms: Arms, run: str | None) -> Arms:
    """With the publisher arms that do not run now and have intents of the run (or of any) from an earlier start."""
    others = [arm for arm in PUBLISHER_ARMS.values() if arm not in arms.publishers]
    left = [arm for arm in others if await _has_intents(postgres, arm, run)]
    return msgspec.structs.replace(arms, publishers=(*arms.publishers, *left))


async def _has_intents(postgres: str, arm: PublisherArm, run: str | None) -> bool:
    for kind in arm.kinds:
        try:
            connection = await connect(postgres, arm.database(kind), name="running")
            try:
                if await connection.fetchval(_INTENTS, run):
                    return True
            finally:
                await connection.close(timeout=1)
        except AWAY:
            continue  # no database, no intents; a server that does not answer is for the audit to say
    return False
