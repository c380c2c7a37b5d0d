"""The circuit breaker: opens after failures in a row, then makes one call at a time, and closes on an answer."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.circuit import LONGEST_PAUSE_S, OPEN_AFTER, Circuit, Permit, Wait

outcomes = st.lists(st.tuples(st.sampled_from(["answer", "failure", "cancelled"]), st.floats(0, 30)), max_size=80)


@given(outcomes)
def test_at_most_one_trial_is_out_and_none_is_called_while_it_is_open(history: list[tuple[str, float]]) -> None:
    circuit, now = Circuit(), 0.0
    for outcome, passes in history:
        now += passes
        answer = circuit.ask(now)
        if isinstance(answer, Wait):
            assert circuit.state != "closed"
            assert 0 < answer.delay_s <= LONGEST_PAUSE_S
            continue
        if answer.trial:
            assert isinstance(circuit.ask(now), Wait), "a second call beside the trial"
        if outcome == "answer":
            circuit.succeeded(answer)
            assert circuit.state == "closed"
        elif outcome == "failure":
            circuit.failed(answer, now)
        else:
            circuit.left(answer, now)


@given(outcomes)
def test_however_it_went_before_a_provider_that_is_back_is_called_again(history: list[tuple[str, float]]) -> None:
    circuit, now = Circuit(), 0.0
    for outcome, passes in history:
        now += passes
        if isinstance(permit := circuit.ask(now), Permit):
            _end(circuit, permit, outcome, now)
    permit = circuit.ask(now + LONGEST_PAUSE_S + 1)
    assert isinstance(permit, Permit)
    circuit.succeeded(permit)
    assert circuit.ask(now + LONGEST_PAUSE_S + 1) == Permit(trial=False)


def _end(circuit: Circuit, permit: Permit, outcome: str, now: float) -> None:
    if outcome == "answer":
        circuit.succeeded(permit)
    elif outcome == "failure":
        circuit.failed(permit, now)
    else:
        circuit.left(permit, now)


def test_single_failures_between_answers_do_not_open_it() -> None:
    circuit, permit = Circuit(), Permit(trial=False)
    for _ in range(20):
        for _ in range(OPEN_AFTER - 1):
            circuit.failed(permit, 0.0)
        circuit.succeeded(permit)
    assert circuit.state == "closed"


def test_calls_that_were_out_when_it_opened_neither_close_it_nor_make_its_pause_longer() -> None:
    circuit, permit = Circuit(), Permit(trial=False)
    for _ in range(OPEN_AFTER + 11):  # the rest of those in flight fail, too
        circuit.failed(permit, 10.0)
    circuit.succeeded(permit)  # an answer that was on its way
    assert circuit.state == "open"
    assert circuit.ask(11.0) == Permit(trial=True)


def test_the_pause_grows_to_its_bound_with_each_trial_that_fails() -> None:
    circuit, now = Circuit(), 0.0
    for _ in range(OPEN_AFTER):
        circuit.failed(Permit(trial=False), now)
    pauses = []
    for _ in range(6):
        wait = circuit.ask(now)
        assert isinstance(wait, Wait)
        pauses.append(wait.delay_s)
        now += wait.delay_s
        permit = circuit.ask(now)
        assert permit == Permit(trial=True)
        circuit.failed(permit, now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
