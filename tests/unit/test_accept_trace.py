"""A caller's trace is continued; a faulty or missing one is not."""

import pytest

from services.telemetry.tracecontext import continue_trace

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_valid_trace_is_continued_with_a_new_span_and_the_same_flags(flags: str) -> None:
    context = continue_trace(f"00-{TRACE}-{PARENT}-{flags}", "vendor=1")
    version, trace, span, kept = context.traceparent.split("-")
    assert (version, trace, kept) == ("00", TRACE, flags)
    assert span != PARENT
    assert len(span) == 16
    assert context.tracestate == "vendor=1"


def test_a_later_version_is_continued_as_ours() -> None:
    assert continue_trace(f"cc-{TRACE}-{PARENT}-01-what-comes", "").traceparent.startswith(f"00-{TRACE}-")


@pytest.mark.parametrize(
    "faulty",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_a_faulty_trace_is_replaced_by_a_new_unsampled_one_and_its_state_dropped(faulty: str) -> None:
    context = continue_trace(faulty, "vendor=1")
    assert TRACE not in context.traceparent
    assert context.traceparent.endswith("-00")
    assert len(context.traceparent) == 55
    assert context.tracestate == ""


@pytest.mark.parametrize("state", ["x" * 513, "ä=1", "a\tb"])
def test_a_state_that_may_not_be_handed_on_is_dropped_alone(state: str) -> None:
    context = continue_trace(f"00-{TRACE}-{PARENT}-01", state)
    assert context.tracestate == ""
    assert TRACE in context.traceparent
