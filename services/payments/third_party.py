"""The provider's client: charges and emails, as the third party offers them. One try a call; no retries of its own.

Every call of an arm with tiers passes the circuit breaker: while it is open, callers wait, and their messages lose no
attempt. A call that found no connection is no attempt of any arm's: the provider was not called.
"""

import asyncio
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import aiohttp

from services.domain.circuit import Circuit, Permit, Wait
from services.domain.failure_policy import OUTAGE, Failure, of_http
from services.domain.messages import Coordinates, Message
from services.payments.patience import CallFailed
from services.settings import Settings

LONGEST_RETRY_AFTER_S: Final = 3600.0


class Provider:
    """Calls under one account. Use as an async context manager.

    At most `provider_concurrency` calls are in flight on each path: a claimed email never waits behind charges.
    """

    def __init__(self, settings: Settings, account: str, life: UUID, *, breaker: bool = True) -> None:
        self._base = settings.provider.rstrip("/")
        self._account = account
        self._agent = f"delivery-lab/{life}"
        self._timeout = aiohttp.ClientTimeout(total=settings.provider_timeout_s)
        slots = settings.provider_concurrency
        self.circuit = Circuit()
        self._breaker = breaker  # without it the circuit is never asked
        self._slots = {path: asyncio.Semaphore(slots) for path in ("/v1/charges", "/v1/emails")}

    @property
    def held_back(self) -> bool:
        """Whether the circuit lets no call pass, or only the one that tries."""
        return self.circuit.state != "closed"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers={"User-Agent": self._agent})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def charge(self, message: Message, *, key: str | None = None, not_after: datetime | None = None) -> bool:
        """Charge the customer; with `key` a repeat has no second effect, as long as the provider knows the key.

        Returns whether it was a repeat. `not_after`: the provider refuses a key that it does not know after this
        moment. Raises CallFailed.
        """
        headers = {"Lab-Record": str(message.at)}
        if key is not None:
            headers["Idempotency-Key"] = key
        if not_after is not None:
            headers["Lab-Not-After"] = f"{not_after.timestamp():.3f}"
        body = {
            "account": self._account,
            "message_id": str(message.id),
            "customer_id": message.payload.customer_id,
            "amount_cents": message.payload.amount_cents,
            "currency": message.payload.currency,
        }
        return await self._post("/v1/charges", body, headers)

    async def charged(self, key: str) -> bool:
        """Whether the provider knows a charge under this key. Raises CallFailed."""
        query = {"account": self._account, "idempotency_key": key}
        return (await self._request("GET", "/v1/charges", params=query, accept=(200, 404))).status == 200

    async def email(
        self, message_id: UUID, customer_id: str, at: Coordinates, *, permit: Permit | None = None
    ) -> None:  # fmt: skip
        """Send an email: the third party does not dedup those. Raises CallFailed.

        `permit`: what the circuit has given for this call; it ends here. Who claims emails asks before the claim.
        """
        body = {"account": self._account, "message_id": str(message_id), "customer_id": customer_id}
        await self._post("/v1/emails", body, {"Lab-Record": str(at)}, permit)

    async def _post(
        self, path: str, body: dict[str, Any], headers: dict[str, str], permit: Permit | None = None
    ) -> bool:
        answer = await self._request("POST", path, json=body, headers=headers, accept=(200, 201), permit=permit)
        return "Idempotent-Replayed" in answer.headers

    async def _request(
        self, method: str, path: str, *, accept: tuple[int, ...], permit: Permit | None = None, **options: Any
    ) -> aiohttp.ClientResponse:
        async with self._slots[path]:
            if permit is None:
                permit = await self._permit() if self._breaker else Permit(trial=False)
            try:
                answer = await self._call(method, path, accept, options)
            except CallFailed as error:
                if error.failure.reason in OUTAGE:
                    self.circuit.failed(permit, time.monotonic())
                else:
                    self.circuit.succeeded(permit)
                called = error.failure.reason != "connection"  # else it never heard of the message
                raise CallFailed(error.failure, counts=called and not permit.trial) from error
            except BaseException:
                self.circuit.left(permit, time.monotonic())
                raise
            self.circuit.succeeded(permit)
            return answer

    async def _permit(self) -> Permit:
        """Wait until the circuit lets a call pass."""
        while isinstance(answer := self.circuit.ask(time.monotonic()), Wait):  # noqa: ASYNC110  # it says how long
            await asyncio.sleep(answer.delay_s)
        return answer

    async def _call(
        self, method: str, path: str, accept: tuple[int, ...], options: dict[str, Any]
    ) -> aiohttp.ClientResponse:  # fmt: skip
        try:
            async with self._session.request(method, self._base + path, **options) as response:
                answer = await response.read()
        except TimeoutError as error:
            raise CallFailed(Failure("timeout", True, "no answer in time")) from error
        except aiohttp.ClientConnectorError as error:
            raise CallFailed(Failure("connection", True, f"no connection: {error}")) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(Failure("connection_lost", True, f"{type(error).__name__}: {error}")) from error
        if response.status in accept:
            return response
        asked_s = retry_after_s(response.headers.get("Retry-After", ""), datetime.now(UTC))
        raise CallFailed(of_http(response.status, answer.decode("utf-8", "replace")[:300], asked_s))


def retry_after_s(text: str, now: datetime) -> float:
    """How long a Retry-After (RFC 9110: seconds, or a date) asks to wait; 0 for what is neither.

    Never longer than LONGEST_RETRY_AFTER_S: nobody's word holds a message for longer, and every wait is a number that
    can be reckoned with.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        asked = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
            asked = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):  # the parser's own, for what is no date
            return 0.0
    return min(max(asked, 0.0), LONGEST_RETRY_AFTER_S)
