"""The composition root of the producers."""

import asyncio

import uvloop
from starlette.applications import Starlette

from services.accept.api import make_routes
from services.accept.arms import Arm, DualWriteAfterCommit, DualWriteBeforeCommit, InsertThenCommit
from services.accept.openapi import describe
from services.accept.slot import watch_slot
from services.accept.store import Intents
from services.accept.topic import Topic
from services.bootstrap import Process, start_process
from services.broker.producer import BatchProducer
from services.broker.sends import Sends
from services.domain.arms import DEFAULT_PUBLISHER, PUBLISHER_ARMS, PublisherArm
from services.domain.messages import Kind
from services.http.database import Database
from services.http.serving import make_app, serve


def main(kind: Kind, publisher: str = DEFAULT_PUBLISHER) -> None:
    """Serve one kind's requests, as a publisher arm does it, until asked to end."""
    process, arm = start_process(), PUBLISHER_ARMS[publisher]
    settings = process.settings
    database = Database(settings.postgres, arm.database(kind), process=settings.process, size=settings.pool_size)
    intents = Intents(database, arm.name, process.tracer)
    routes = make_routes(kind, process, intents, make_arm(arm, kind, process, intents), arm.name)
    uvloop.run(_serve(process, make_app(routes, database, describe(kind)), database, arm))


def make_arm(arm: PublisherArm, kind: Kind, process: Process, intents: Intents) -> Arm:
    """The steps of a publisher arm. A dual write has a producer of its own from here on."""
    match arm.name:
        case "dual_write_after_commit":
            return DualWriteAfterCommit(intents, process.failpoints, _topic(arm, kind, process))
        case "dual_write_before_commit":
            return DualWriteBeforeCommit(intents, process.failpoints, _topic(arm, kind, process))
        case "id_cursor":
            return InsertThenCommit(intents, process.failpoints)
    return intents


def _topic(arm: PublisherArm, kind: Kind, process: Process) -> Topic:
    producer = BatchProducer(process.settings.kafka, process.settings.process)
    return Topic(producer, arm.topic(kind), Sends(process.tracer, arm.name))


async def _serve(process: Process, app: Starlette, database: Database, arm: PublisherArm) -> None:
    """Serve, and watch the replication slot of an arm that has one: its reader may be dead or frozen."""
    watch = asyncio.create_task(watch_slot(process, database)) if arm.name == "cdc" else None
    try:
        await serve(process, app, database)
    finally:
        if watch is not None:
            watch.cancel()
