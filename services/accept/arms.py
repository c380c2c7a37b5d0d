"""The publisher arms as their producers see them: the steps from a request that was found in order to an answer."""

from typing import Protocol

from services.accept.intents import NewIntent
from services.accept.store import Answer, Intents
from services.accept.topic import Topic
from services.failpoints import Failpoints


class Arm(Protocol):
    """What a producer does with a new intent."""

    async def accept(self, new: NewIntent) -> Answer:
        """Make the intent, or find what was answered under its key.

        Raises Problem `unavailable` when it is not known whether that happened; the same key tells.
        """
        ...


class DualWriteAfterCommit:
    """Commit, then publish. Died between, or given up by the broker: an intent that nobody publishes any more."""

    def __init__(self, intents: Intents, failpoints: Failpoints, topic: Topic) -> None:
        self._intents, self._failpoints, self._topic = intents, failpoints, topic

    async def accept(self, new: NewIntent) -> Answer:
        answer = await self._intents.accept(new)
        if answer.message_id is not None:
            await self._failpoints.hit("accept.after_commit_before_produce")
            await self._topic.publish(answer.message_id, new)
        return answer


class DualWriteBeforeCommit:
    """Publish, then commit. Died or rolled back between: a record without an intent."""

    def __init__(self, intents: Intents, failpoints: Failpoints, topic: Topic) -> None:
        self._intents, self._failpoints, self._topic = intents, failpoints, topic

    async def accept(self, new: NewIntent) -> Answer:
        async with self._intents.transaction() as transaction:
            answer = await self._intents.accept(new, transaction)
            if answer.message_id is not None:
                await self._topic.publish(answer.message_id, new)
                await self._failpoints.hit("accept.after_produce_before_commit")
        return answer


class InsertThenCommit:
    """The outbox row as a step of its own: between the insert, which draws its position, and the commit lies time."""

    def __init__(self, intents: Intents, failpoints: Failpoints) -> None:
        self._intents, self._failpoints = intents, failpoints

    async def accept(self, new: NewIntent) -> Answer:
        async with self._intents.transaction() as transaction:
            answer = await self._intents.accept(new, transaction)
            await self._failpoints.hit("accept.after_insert_before_commit")
        return answer
