"""The load as data: which request is sent when, computed from a seed. The plan is open loop: it waits for no answer."""

import random
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec

from loadtest.shapes import Phase, times
from services.domain.effects import EFFECTS, Effect
from services.domain.messages import ORDERS, REFUNDS, Kind
from services.domain.orders import Order, Refund

ClientFault = Literal["none", "timeout", "reset"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
RunId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}\Z")]  # an order id holds it and a number

MAX_REQUESTS: Final = 10_000_000
_ALL_EFFECTS_UP_TO_RATE: Final = 50.0  # two cores cannot answer more provider calls a second
_REFUNDABLE: Final = 1_000  # orders of which the next refund takes one; older ones are not refunded
_CURRENCIES: Final = ("EUR", "USD", "GBP", "JPY")
_REASONS: Final = ("damaged", "late", "wrong size", "changed my mind")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan is computed from. Equal plans have equal requests.

    With `phases` they say what is sent when; `rate` and `duration_s` are then their mean and their sum.
    """

    run: RunId
    seed: int = 1
    rate: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 50.0  # requests a second
    duration_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    effects_share: Share | None = None  # messages with charge and email besides the record; None: by the rate
    refunds_share: Share = 0.1
    timeout_share: Share = 0.01
    reset_share: Share = 0.01
    customers: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500
    skew: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0  # 1: every customer orders as often as any other
    phases: tuple[Phase, ...] = ()

    @property
    def planned(self) -> int:
        """How many requests the plan has."""
        if self.phases:
            return sum(phase.planned for phase in self.phases)
        return max(1, round(self.rate * self.duration_s))

    @property
    def peak(self) -> float:
        """The highest rate, requests a second."""
        return max((max(phase.rate, phase.to_rate or 0.0) for phase in self.phases), default=self.rate)

    def times(self) -> Iterator[float]:
        """When each request is due, in seconds from the start."""
        return times(self.phases) if self.phases else (index / self.rate for index in range(self.planned))


class Request(msgspec.Struct, frozen=True):
    """One request: number `index`, due `at_s` seconds after the start."""

    index: int
    at_s: float
    kind: Kind
    key: str  # its Idempotency-Key
    payload: Order | Refund
    effects: tuple[Effect, ...]
    fault: ClientFault  # what the client itself does wrong, in the first attempt


def checked(plan: Plan) -> Plan:
    """The plan, if its values are possible; raises ValueError that names the one that is not."""
    try:
        msgspec.convert(msgspec.to_builtins(plan), Plan)
    except msgspec.ValidationError as error:
        raise ValueError(f"no such load: {error}") from None
    if plan.planned > MAX_REQUESTS:
        raise ValueError(f"{plan.planned} requests are more than {MAX_REQUESTS}: lower the rate or the duration")
    if plan.planned == 0:
        raise ValueError("the phases send nothing")
    for number, phase in enumerate(plan.phases, 1):
        if wrong := phase.contradiction():
            raise ValueError(f"phase {number}: {wrong}")
    if plan.timeout_share + plan.reset_share > 1:
        raise ValueError("the shares of time-outs and resets are more than 1 together")
    return plan


def default_run(seed: int, now: datetime | None = None) -> str:
    """The id of a run that nobody named: when it began, and its seed."""
    return f"run-{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{seed}"


def default_effects_share(rate: float) -> float:
    """The share of messages with charge and email: all at a rate that the provider can answer, else a tenth."""
    return 1.0 if rate <= _ALL_EFFECTS_UP_TO_RATE else 0.1


def requests(plan: Plan) -> Iterator[Request]:
    """The requests of a plan in the order of their times.

    A refund takes back an order that came earlier in this run, each order at most once. Customers are skewed: of 500,
    the first makes one order in 22.
    """
    draw = random.Random(plan.seed)  # noqa: S311  # a load is to be repeatable, not secret
    share = default_effects_share(plan.peak) if plan.effects_share is None else plan.effects_share
    refundable: deque[Order] = deque(maxlen=_REFUNDABLE)
    for index, at_s in enumerate(plan.times()):
        effects: tuple[Effect, ...] = EFFECTS if draw.random() < share else ("record",)
        fault = _fault(draw.random(), plan)
        payload: Order | Refund
        if draw.random() < plan.refunds_share and refundable:
            kind, payload = REFUNDS, _refund(draw, refundable)
        else:
            kind, payload = ORDERS, _order(draw, index, plan)
            refundable.append(payload)
        yield Request(index, at_s, kind, f"{plan.run}-{index}", payload, effects, fault)


def _fault(drawn: float, plan: Plan) -> ClientFault:
    if drawn < plan.timeout_share:
        return "timeout"
    return "reset" if drawn < plan.timeout_share + plan.reset_share else "none"


def _order(draw: random.Random, index: int, plan: Plan) -> Order:
    customer = int(plan.customers * draw.random() ** plan.skew)
    amount_cents = 100 + int(draw.random() * 50_000)
    return Order(f"{plan.run}-o{index}", f"c-{customer:03d}", amount_cents, draw.choice(_CURRENCIES))


def _refund(draw: random.Random, refundable: deque[Order]) -> Refund:
    position = draw.randrange(len(refundable))
    order = refundable[position]
    del refundable[position]
    amount_cents = 1 + int(draw.random() * order.amount_cents)
    return Refund(order.order_id, order.customer_id, amount_cents, order.currency, draw.choice(_REASONS))
