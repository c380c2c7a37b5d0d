"""Transactions on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from services.broker.transactor import Transactor
from services.settings import Settings
from tests.conftest import Infra

TIMES = 200


@pytest.fixture
async def topic(infra: Infra) -> AsyncIterator[str]:
    name, admin = f"transactor-{uuid4().hex}", AdminClient({"bootstrap.servers": infra.kafka})
    await asyncio.to_thread(admin.create_topics([NewTopic(name, 1, 1)])[name].result, 30)
    yield name
    await asyncio.to_thread(admin.delete_topics([name])[name].result, 30)


async def test_a_transaction_can_be_given_up_right_after_another(settings: Settings, topic: str) -> None:
    """Without waiting for the first acknowledgement some of these are fatal: librdkafka issue 4849.

    The broker gives a transaction a minute: what it aborts itself, because the machine stood still, looks the same.
    """
    patient = msgspec.structs.replace(settings, session_timeout_s=40)

    def give_up() -> None:
        transactor = Transactor(topic, [topic], patient, lambda: None)
        assert transactor.expires_s == 60
        try:
            for number in range(TIMES):
                for end in (transactor.commit, transactor.abort):
                    transactor.begin()
                    records = 1 + number % 40 * 50  # it ends at every point of the first ones' way to the broker
                    assert transactor.produce([(topic, None, b"", ())] * records) == []
                    end()
        finally:
            transactor.close()

    await asyncio.to_thread(give_up)
