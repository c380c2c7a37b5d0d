"""`lab explain`: what every store knows of one message, in the order of time."""

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from services.auditor.timeline import life_of
from services.settings import Settings
from tests.integration.test_auditor import TRACE, World, opened


async def test_the_life_of_a_message_is_told_from_its_call_to_its_effects(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "run").mkdir()
    async with opened(World(settings, tmp_path / "ledger")) as world:
        message = world.messages[0]
        await world.databases["provider"].execute(
            """INSERT INTO applications (account, effect, message_id, customer_id, topic, partition, "offset", life)
               VALUES ('at_least_once', 'email', $1, 'c', $2, $3, $4, 'l')""",
            str(message.id), message.at.topic, message.at.partition, message.at.offset,
        )  # fmt: skip
        copy = world.publish(message.id, message.kind)
        life = await life_of(msgspec.structs.replace(settings, home=str(tmp_path)), message.id)
        await world.databases["provider"].execute("DELETE FROM applications WHERE message_id = $1", str(message.id))
        with pytest.raises(LookupError, match="no store knows"):
            await life_of(msgspec.structs.replace(settings, home=str(tmp_path)), uuid4())
    assert (life.kind, life.publisher, life.run, life.trace_id) == ("orders", "outbox", world.run, TRACE)
    told = [(moment.hop, moment.who, moment.what.split(" for ")[0]) for moment in life.timeline]
    assert ("accept", "the client", "answer acknowledged") in told
    assert ("accept", "orders", f"intent {message.business_id} committed,") in told
    assert {("publish", "outbox", f"record {at}") for at in (message.at, copy)} <= set(told)
    assert ("process", "at_least_once", "email applied") in told
    assert [moment.at for moment in life.timeline] == sorted(moment.at for moment in life.timeline)
