"""`python -m services.cdc [DATABASE TOPIC]`: publishes the arm's outbox, or the one of another database."""

import asyncio
import gc
import sys
from typing import Final

import uvloop

from services.bootstrap import start_process
from services.broker.producer import BatchProducer
from services.broker.publishing import run_publisher
from services.cdc.publisher import CdcPublisher
from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import ORDERS

GC_THRESHOLD: Final = 100_000  # as the relay's: batches are tens of thousands of small objects without a cycle


def main(arguments: list[str]) -> None:
    """Publish until asked to end."""
    process, arm = start_process(), PUBLISHER_ARMS["cdc"]
    database, topic = arguments or (arm.database(ORDERS), arm.topic(ORDERS))

    def make(producer: BatchProducer, stopping: asyncio.Event) -> CdcPublisher:
        return CdcPublisher(database, topic, process, producer, stopping)

    uvloop.run(run_publisher(process, make))


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    main(sys.argv[1:])
