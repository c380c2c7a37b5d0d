"""Arm `kafka_transactions`: consume, transform, produce in one Kafka transaction a batch, with other effects inside it.

    1. begin
    2. charge        without Idempotency-Key: no part of the transaction, however much it looks like one
    3. record        autocommit in Postgres: no part of it either
    4. output        each record once more, with where it comes from, to the output topic
    5. offsets       added to the transaction, under the generation in which the batch was read
    6. commit        4 and 5 become true together

Whatever goes wrong: abort, go back to the committed positions, do the batch again. So 4 happens once for whoever reads
committed records only, and 2 and 3 as often as the batch was tried. What fails for ever, or too often, is dead-lettered
inside the transaction. A process that was replaced while it was frozen is refused at 5 or 6.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from services.bootstrap import Process
from services.broker.producer import Failure as Refusal
from services.broker.producer import Record
from services.broker.topics import subscriptions
from services.broker.transactor import ANSWER_S, Aborted, Fenced, Fetched, Transactor
from services.domain.arms import CONSUMER_ARMS
from services.domain.failure_policy import Failure, Retry, decide
from services.domain.forwarding import Forwarding, forwarded
from services.domain.messages import Message
from services.failpoints import InjectedError
from services.payments.arms.base import Tools, wanting, without
from services.payments.dispatch import Dispatch
from services.payments.equipment import equipped
from services.payments.handler import Taken
from services.payments.observer import InHand
from services.payments.patience import failure_of
from services.payments.trail import Trail, step
from services.payments.tries import Tries
from services.payments.unapplied import Letter, Unapplied
from services.storage.postgres import AWAY, in_doubt
from services.telemetry.admin import serve_admin

ARM: Final = CONSUMER_ARMS["kafka_transactions"]
STOP_TIMEOUT_S: Final = 5.0
HANGS_AFTER_S: Final = 1.5 * ANSWER_S
WORK: Final = 0.6  # of the time that the broker gives a transaction, for the effects
# Between two tries, whatever was asked for: nothing is polled meanwhile, so a rebalance waits for the end of it, and
# after max.poll.interval.ms (300 s) the group goes on without this member. Six tries end before the policy gives up.
LONGEST_PAUSE_S: Final = 60.0

Result = TypeVar("Result")


class Undone(Exception):
    """An effect failed, so the transaction is given up. `retry_after_s`: the longest that the other side asked for."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class KafkaTransactions:
    """Batch after batch, each in a transaction of its own."""

    def __init__(self, tools: Tools, transactor: Transactor) -> None:
        self._tools = tools
        self._transactor = transactor
        self._dispatch = Dispatch(tools, _Sender(transactor))
        self._tries = Tries()
        self._size = tools.settings.chunk
        self._failures = 0  # in a row
        self._failing_since_s = 0.0
        self._random = random.Random()  # noqa: S311  # jitter
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing more; a pause between tries ends at once."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Raises what ends the process: Fenced, or what the broker does not let pass."""
        while not self._stopping.is_set():
            batch = await self._in_time(self._transactor.fetch, self._size)
            if self._transactor.moved:
                self._tries = Tries()  # others have them now, or they come again
            if batch:
                await self._handle(batch)

    async def _in_time(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do blocking work in a thread. When it does not come back in time, the process ends at once.

        librdkafka bounds its calls, but send_offsets_to_transaction was seen to hang for good after its broker had been
        killed (2.16.1). The broker aborts the transaction, and the next life begins at the committed positions.
        """
        try:
            return await asyncio.wait_for(asyncio.to_thread(work, *arguments), HANGS_AFTER_S)
        except TimeoutError:
            why = f"{getattr(work, '__name__', work)} did not come back within {HANGS_AFTER_S:g} s"
            self._tools.log.event("transaction.fenced", "error", positions={}, error=why)
            os._exit(1)  # the thread that hangs would be waited for

    async def _handle(self, batch: Sequence[Fetched]) -> None:
        with self._tools.observer.in_hand(batch) as in_hand:
            await self._in_transaction(batch, in_hand)

    async def _in_transaction(self, batch: Sequence[Fetched], in_hand: InHand) -> None:
        tools = self._tools
        positions = {f"{record.topic}/{record.partition}": record.offset + 1 for record in batch}
        chunks = _by_partition(batch)
        trail = tools.trails.begin(ARM.group)
        self._tell_received(chunks)
        taken = Taken(batch, now_ms=sys.maxsize)  # nothing waits for its time here
        trail.take(taken.sources)
        try:
            self._transactor.begin()
            given_up = self._tries.given_up(taken.messages) + Unapplied(taken.letters)
            sent = await self._work(taken, given_up)
            for chunk in chunks:
                tools.log.event("offset.applied", arm=ARM.name, **chunk)
            await tools.failpoints.hit("process.in_transaction_before_offsets")
            await self._in_time(self._transactor.send_offsets, batch)
            await tools.failpoints.hit("process.in_transaction_after_offsets")
            await self._in_time(self._transactor.commit)
        except (Aborted, Undone, InjectedError) as error:
            trail.finish(taken.messages, outcome="aborted", settled=False)
            await self._abort(chunks, error)
        except Fenced as error:
            tools.log.event("transaction.fenced", "error", positions=positions, error=f"{error}"[:300])
            raise
        else:
            self._done(positions, taken, sent, trail)
            tools.observer.redriven(taken.vias, given_up.places(), ())
            in_hand.done(trail.told)

    async def _work(self, taken: Taken, given_up: Unapplied) -> int:
        """Steps 2 to 4; returns how many records were sent to the output topic. Raises Undone and Aborted."""
        good = without(given_up, taken.messages)
        try:
            async with asyncio.timeout(WORK * self._transactor.expires_s):
                charging = wanting("charge", good)
                self._check(await self._tools.each("charge", charging, self._tools.provider.charge))
                await self._insert_records(good)
                self._check(self._output(taken, good))
                if given_up:
                    await self._dispatch.send_on(taken.sources, given_up)
        except TimeoutError:
            self._halve()
            raise Undone("the effects took too long for a transaction") from None
        return len(good)

    def _check(self, failed: Unapplied) -> None:
        if failed:
            self._tries.note(failed)
            asked_s = max((one.failure.retry_after_s for one in failed.deferred), default=0.0)
            raise Undone(f"{len(failed)} messages failed", asked_s)

    async def _insert_records(self, messages: Sequence[Message]) -> None:
        try:
            with step("record", messages):
                await self._tools.ledger.try_to_insert_records(messages)
        except AWAY as error:
            failure = failure_of(error)
            if not in_doubt(error):  # else the ledger has counted it
                self._tools.count("record", "failed", len(messages))
            if not failure.retryable:
                self._suspect(messages, failure)
            raise Undone(f"record: {failure.detail}") from error
        self._tools.count("record", "applied", len(messages))

    def _suspect(self, messages: Sequence[Message], failure: Failure) -> None:
        """One of these cannot be inserted: found by halving the batch."""
        if len(messages) == 1:
            at, message_id = messages[0].at, messages[0].id
            self._tries.note(Unapplied([Letter(at, message_id, "refused", f"record: {failure.detail}")]))
        else:
            self._halve()

    def _output(self, taken: Taken, messages: Sequence[Message]) -> Unapplied:
        """Send each record on as it is; returns those that are refused for ever."""
        records = []
        for message in messages:
            record = taken.sources[message.at].record
            headers = forwarded(record.headers, Forwarding(origin=message.at))
            records.append((ARM.output_topic, record.key, record.value, headers))
        with step("output", messages, **_OUTPUT):
            refused = [(messages[one.index], one.reason) for one in self._transactor.produce(records)]
        return Unapplied([Letter(m.at, m.id, "refused", f"output: {reason}") for m, reason in refused])

    def _halve(self) -> None:
        self._size = max(1, self._size // 2)

    async def _abort(self, chunks: Sequence[dict[str, Any]], error: Exception) -> None:
        """Give the transaction up and wait, longer each time. Raises the error when it goes on for too long."""
        tools = self._tools
        positions = {f"{chunk['topic']}/{chunk['partition']}": chunk["first_offset"] for chunk in chunks}
        tools.log.event("transaction.aborted", "warning", positions=positions, error=f"{error}"[:300])
        tools.metrics.add("delivery.offset_commits", 1, arm=ARM.name, outcome="failed")
        await self._in_time(self._transactor.abort)
        tools.log.event("offset.rewound", arm=ARM.name, positions=positions)
        self._failing_since_s = self._failing_since_s if self._failures else time.monotonic()
        self._failures += 1
        elapsed_s = time.monotonic() - self._failing_since_s
        failure = Failure("connection", True, retry_after_s=error.retry_after_s if isinstance(error, Undone) else 0.0)
        decision = decide(failure, attempt=self._failures, elapsed_s=elapsed_s, draw=self._random.random())
        if not isinstance(decision, Retry):
            raise error
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), min(decision.delay_s, LONGEST_PAUSE_S))

    def _done(self, positions: dict[str, int], taken: Taken, sent: int, trail: Trail) -> None:
        self._tries.forget(taken.messages)
        self._failures = 0
        self._size = min(self._tools.settings.chunk, 2 * self._size)
        self._tools.count("output", "applied", sent)
        self._tools.metrics.add("delivery.offset_commits", 1, arm=ARM.name, outcome="committed")
        special = any(name.partition("/")[0] == ARM.redelivery_topic for name in positions)
        ids = trail.finish(taken.messages, special=special)
        self._tools.trails.committed(positions)
        self._tools.log.event("offset.committed", arm=ARM.name, positions=positions, **ids)

    def _tell_received(self, chunks: Sequence[dict[str, Any]]) -> None:
        for chunk in chunks:
            labels = {"arm": ARM.name, "topic": chunk["topic"]}
            self._tools.metrics.add("messaging.client.consumed.messages", chunk["count"], **labels)
            self._tools.log.event("offset.received", arm=ARM.name, **chunk)


def _by_partition(batch: Sequence[Fetched]) -> list[dict[str, Any]]:
    """The chunk of each partition in a batch: topic, partition, first and last offset, count."""
    chunks: dict[tuple[str, int], dict[str, Any]] = {}
    for record in batch:
        at = {"topic": record.topic, "partition": record.partition, "first_offset": record.offset, "count": 0}
        chunk = chunks.setdefault((record.topic, record.partition), at)
        chunk["last_offset"] = record.offset
        chunk["count"] += 1
    return list(chunks.values())


_OUTPUT: Final = {
    "messaging.system": "kafka",
    "messaging.operation.name": "send",
    "messaging.operation.type": "send",
    "messaging.destination.name": ARM.output_topic,
}


class _Sender:
    """What `Dispatch` sends by: into the transaction that is open."""

    def __init__(self, transactor: Transactor) -> None:
        self._transactor = transactor

    async def send(self, records: Sequence[Record]) -> list[Refusal]:
        return self._transactor.produce(records)


async def run(process: Process) -> None:
    """Work until SIGTERM. Raises what ended it, and TimeoutError when the batch in hand did not end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings, topics = process.settings, [topic.name for topic in dict(subscriptions())[ARM.group]]
    async with equipped(process, ARM) as tools:
        releasing = partial(tools.failpoints.hit_blocking, "process.during_rebalance")
        rebalanced = tools.observer.rebalanced
        transactor = await asyncio.to_thread(Transactor, ARM.group, topics, settings, releasing, rebalanced)
        arm = KafkaTransactions(tools, transactor)
        tools.observer.watch_lag(transactor.ends)
        await serve_admin(
            settings.bind, settings.admin_port, process.metrics,
            lambda: "" if transactor.assigned else "an assignment of partitions",
        )  # fmt: skip
        work = asyncio.create_task(arm.run(), name="transactions")
        asked = asyncio.create_task(stop.wait(), name="signal")
        await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        process.log.event("process.stopping", asked=stop.is_set())
        arm.stop()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            try:
                await work
            finally:
                await asyncio.to_thread(transactor.close)  # else its partitions wait for the end of its session
