"""Arm `at_least_once`: effects first, then the offset. No dedup.

    1. charge        without Idempotency-Key: a call that timed out is made again, later
    2. record        all of the chunk in one statement
    3. email
    4. (the caller)  the offset becomes committable

A message whose call failed in a way that may pass goes to the retry tiers and is done again as a whole: what was done
of it by then is done twice. Whatever ends the process before 4 is committed makes the chunk come again, and everything
in it happens again.
"""

import asyncio
from collections.abc import Sequence

from services.domain.messages import Message
from services.payments.arms.base import Tools, wanting, without
from services.payments.trail import step
from services.payments.unapplied import Unapplied


class AtLeastOnce:
    """Lost 0; duplicates after every crash between an effect and its commit."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def apply(self, messages: Sequence[Message]) -> Unapplied:
        """Apply all effects of a chunk, naively."""
        tools, provider = self._tools, self._tools.provider
        failed = await tools.passing("process.after_read", messages)
        charging = wanting("charge", without(failed, messages))
        failed += await tools.each("charge", charging, provider.charge)
        if charging:
            failed += await tools.passing("process.after_charge_before_record", without(failed, charging))
        good = without(failed, messages)
        with step("record", good):
            await tools.ledger.insert_records(good)
        tools.count("record", "applied", len(good))
        failed += await tools.each(
            "email", wanting("email", good), lambda m: provider.email(m.id, m.payload.customer_id, m.at)
        )
        return failed + await tools.passing("process.after_record_before_commit", without(failed, messages))

    async def run_beside(self) -> None:
        """Nothing: everything happens within the chunk."""
        await asyncio.Event().wait()
