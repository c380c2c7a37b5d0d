"""A plan is a function of its seed, and every plan sends what the producers accept."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from loadtest.ledger import Line, Outcome, outcomes, sum_up
from loadtest.plan import Plan, requests
from services.domain.effects import EFFECTS
from services.domain.orders import Order, Refund

SHARES = st.floats(0, 0.5)
PLANS = st.builds(
    Plan,
    run=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", fullmatch=True),
    seed=st.integers(0, 2**32),
    rate=st.floats(0.5, 500),
    duration_s=st.floats(0.1, 2),
    effects_share=st.none() | SHARES,
    refunds_share=SHARES,
    timeout_share=SHARES,
    reset_share=SHARES,
    customers=st.integers(1, 1_000),
)


@given(PLANS)
def test_the_same_seed_is_the_same_plan(plan: Plan) -> None:
    assert list(requests(plan)) == list(requests(plan))


@given(PLANS)
def test_a_plan_has_the_number_it_names_at_even_times_within_the_duration(plan: Plan) -> None:
    planned = list(requests(plan))
    assert len(planned) == plan.planned
    assert [request.index for request in planned] == list(range(plan.planned))
    assert all(abs(request.at_s - request.index / plan.rate) < 1e-9 for request in planned)
    assert planned[-1].at_s < plan.duration_s + 1 / plan.rate


@given(PLANS)
def test_keys_and_ids_belong_to_the_run_and_come_once(plan: Plan) -> None:
    planned = list(requests(plan))
    assert [request.key for request in planned] == [f"{plan.run}-{n}" for n in range(plan.planned)]
    by_kind = Counter((request.kind.name, request.payload.order_id) for request in planned)
    assert set(by_kind.values()) == {1}, "a second intent of one id is refused by the producers"


@given(PLANS)
def test_a_refund_takes_back_no_more_than_an_earlier_order_of_the_same_customer(plan: Plan) -> None:
    orders: dict[str, Order] = {}
    for request in requests(plan):
        if isinstance(request.payload, Refund):
            order = orders[request.payload.order_id]
            assert request.payload.customer_id == order.customer_id
            assert request.payload.currency == order.currency
            assert 1 <= request.payload.amount_cents <= order.amount_cents
        else:
            assert request.payload.order_id == f"{plan.run}-o{request.index}"
            orders[request.payload.order_id] = request.payload


@given(PLANS)
def test_every_payload_is_valid_and_every_message_has_a_record(plan: Plan) -> None:
    for request in requests(plan):
        assert msgspec.json.decode(msgspec.json.encode(request.payload), type=request.kind.payload) == request.payload
        assert request.effects in (EFFECTS, ("record",))


def test_shares_and_skew_come_out_as_declared() -> None:
    planned = list(requests(Plan(run="r", seed=3, rate=1_000, duration_s=20)))
    share = {
        "refunds": sum(r.kind.name == "refunds" for r in planned),
        "effects": sum(r.effects == EFFECTS for r in planned),
        "timeout": sum(r.fault == "timeout" for r in planned),
        "reset": sum(r.fault == "reset" for r in planned),
    }
    expected = {"refunds": 2_000, "effects": 2_000, "timeout": 200, "reset": 200}
    assert all(abs(share[name] - expected[name]) < 5 * expected[name] ** 0.5 for name in expected), share
    customers = Counter(request.payload.customer_id for request in planned)
    assert len(customers) > 450
    assert customers.most_common(1)[0][1] > 20 * len(planned) / 500


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["acknowledged", "refused", "unknown", None]))))
def test_a_ledger_says_of_each_key_what_its_attempts_say_together(history: list[tuple[str, Outcome | None]]) -> None:
    lines: list[Line] = []
    attempts: dict[str, list[Outcome]] = {}
    for number, (key, outcome) in enumerate(history):
        lines.append(Line(at=0, run="r", key=key, kind="orders", phase="call", attempt=number))
        if outcome:
            answer = Line(at=0, run="r", key=key, kind="orders", phase="answer", attempt=number, outcome=outcome)
            lines.append(answer)
        attempts.setdefault(key, []).append(outcome or "unknown")
    assert outcomes(lines) == {key: sum_up(seen) for key, seen in attempts.items()}
