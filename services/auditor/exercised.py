"""What gave the promises of a run the chance to break, from rows that were written by the decisions themselves."""

from services.auditor.stores import reaching
from services.domain.arms import CONSUMER_ARMS
from services.settings import Settings
from services.storage.postgres import connect

# Hits of ids that this run's records carry, whose effects were applied when they were met again.
_MET_AGAIN = """
SELECT count(*) FROM {schema}.dedup_hits h
 WHERE h.decision = 'duplicate'
   AND EXISTS (SELECT FROM {schema}.records r WHERE r.message_id = h.message_id AND r.run = $1)
"""


async def met_again(settings: Settings, run: str) -> dict[str, int]:
    """By arm that dedups: how often it met an id again that it had applied. Raises Unreachable."""
    with reaching("the database payments"):
        connection = await connect(settings.postgres, "payments", name="auditor")
        try:
            return {
                arm.name: await connection.fetchval(_MET_AGAIN.format(schema=arm.schema), run)
                for arm in CONSUMER_ARMS.values()
                if arm.dedups
            }
        finally:
            await connection.close()
