"""What every arm's process begins with: Postgres and the broker answer, the provider's client is open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.bootstrap import Process
from services.broker.delivery import ask_broker
from services.domain.arms import ConsumerArm
from services.payments.arms.base import Tools
from services.payments.ledger import Ledger
from services.payments.observer import Observer
from services.payments.patience import Patience
from services.payments.third_party import Provider
from services.payments.trail import Trails
from services.storage.postgres import pool


@asynccontextmanager
async def equipped(process: Process, arm: ConsumerArm) -> AsyncIterator[Tools]:
    """An arm's tools; its servers are waited for. An arm that does not retry has no circuit breaker."""
    settings = process.settings
    patience = Patience(arm.name, process.log, process.metrics)
    connections = await patience.until_done(
        "connect to Postgres",
        lambda: pool(settings.postgres, "payments", name=settings.process, size=settings.pool_size),
    )
    try:
        await patience.until_done("ask the broker", lambda: ask_broker(settings.kafka))
        async with Provider(settings, arm.name, process.life, breaker=arm.retries) as provider:
            if arm.retries:
                process.metrics.observe("delivery.circuit.open", lambda: [(provider.held_back, {"arm": arm.name})])
            yield Tools(
                arm,
                settings,
                process.life,
                process.log,
                process.metrics,
                process.failpoints,
                Ledger(connections, arm, process.life, patience, process.metrics),
                provider,
                patience,
                Trails(process.tracer, arm),
                Observer(process.metrics, arm),
            )
    finally:
        connections.terminate()  # a close would wait for a server that may be frozen
