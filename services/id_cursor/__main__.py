"""`python -m services.id_cursor [DATABASE TOPIC]`: publishes the arm's outbox, or the one of another database."""

import asyncio
import sys

import uvloop

from services.bootstrap import start_process
from services.broker.producer import BatchProducer
from services.broker.publishing import run_publisher
from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import ORDERS
from services.id_cursor.publisher import IdCursorPublisher


def main(arguments: list[str]) -> None:
    """Publish until asked to end."""
    process, arm = start_process(), PUBLISHER_ARMS["id_cursor"]
    database, topic = arguments or (arm.database(ORDERS), arm.topic(ORDERS))

    def make(producer: BatchProducer, stopping: asyncio.Event) -> IdCursorPublisher:
        return IdCursorPublisher(database, topic, process, producer, stopping)

    uvloop.run(run_publisher(process, make))


if __name__ == "__main__":
    main(sys.argv[1:])
