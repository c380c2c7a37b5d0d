"""Every kind of span on the real stack, as the trace store has it: its kind, its parent, its links, its attributes."""

import json
import re
from typing import Any

import pytest

from services.domain.arms import CONSUMER_ARMS
from services.telemetry.spans import ATTRIBUTES, SPANS
from services.telemetry.tracing import operation_context
from tests.conftest import Lab
from tests.telemetry.journeys import Journey, Span, Traces, ancestors, select
from tests.telemetry.undisturbed import in_time, whole

pytestmark = pytest.mark.timeout(900)

ARMS = tuple(CONSUMER_ARMS)
CLIENT = "b7ad6b7169203331"  # the span of who sends the orders
EFFECTS = {
    "at_most_once": {"post /v1/charges", "insert records", "post /v1/emails"},
    "stock_faust": {"post /v1/charges", "insert records", "post /v1/emails"},
    "at_least_once": {"post /v1/charges", "insert records", "post /v1/emails"},
    "effectively_once": {"insert inbox", "post /v1/charges", "update records", "post /v1/emails"},
    "kafka_transactions": {"post /v1/charges", "insert records", "send payments.kafka_transactions.output"},
}

# Each kind of span, and the test that makes it appear.
SHOWN_BY = {
    "request": "test_a_request_and_its_insert_begin_the_trace",
    "insert": "test_a_request_and_its_insert_begin_the_trace",
    "send": "test_the_publication_is_a_child_of_the_request_and_linked_to_its_batch",
    "send.batch": "test_the_publication_is_a_child_of_the_request_and_linked_to_its_batch",
    "poll": "test_every_arm_receives_processes_and_links_to_its_chunk",
    "receive": "test_every_arm_receives_processes_and_links_to_its_chunk",
    "process": "test_every_arm_receives_processes_and_links_to_its_chunk",
    "commit": "test_every_commit_that_can_be_heard_of_is_a_child_of_the_processing",
    "record": "test_every_effect_is_a_child_of_the_processing",
    "reserve": "test_every_effect_is_a_child_of_the_processing",
    "complete": "test_every_effect_is_a_child_of_the_processing",
    "call": "test_every_effect_is_a_child_of_the_processing",
    "output": "test_every_effect_is_a_child_of_the_processing",
    "retry": "test_a_retry_says_attempt_tier_and_reason_and_is_linked_to_the_attempt_before",
    "dead_letter": "test_a_dead_letter_and_its_redrive_are_linked",
    "redrive": "test_a_dead_letter_and_its_redrive_are_linked",
    "replay": "test_a_replayed_message_is_linked_to_its_replay",
}


def test_every_span_of_the_catalogue_has_its_test() -> None:
    assert SHOWN_BY.keys() == SPANS.keys()
    assert all(callable(globals()[name]) for name in SHOWN_BY.values())


def test_spans_and_titles_use_declared_attributes_only() -> None:
    for span in SPANS.values():
        assert set(span.attributes) <= ATTRIBUTES.keys(), span.name
        fields = {field.replace("_", ".") for field in re.findall(r"{(\w+)}", span.title)}
        titled = {name.replace("_", ".") for name in span.attributes}
        assert fields <= titled, span.name


@pytest.fixture(scope="module")
def traces(lab: Lab) -> Traces:
    lab.until(lambda: lab.status()["zipkin"]["ready"], "the trace store to be ready", 180)
    return Traces(lab)


@pytest.fixture(scope="module")
def journey(lab: Lab, traces: Traces) -> Journey:
    """An order that went through every arm, and of which the store has every span."""
    return whole(lab, traces, traces.order, lambda journey: complete(traces.of(journey.trace_id)))


def complete(spans: list[Span]) -> bool:
    """Whether every arm has applied and committed the message and told of its effects, and no parent is missing."""
    ids = {CLIENT, *(span.id for span in spans)}
    return (
        all(select(spans, "process orders.v1", f"arm.{arm}", delivery_outcome="applied") for arm in ARMS)
        and all(EFFECTS[arm] <= below(spans, applied(spans, arm)) for arm in ARMS)
        and all(select(spans, "commit orders.v1", f"arm.{arm}") for arm in ARMS if arm != "stock_faust")
        and bool(select(spans, "insert intents", "orders"))
        and all(span.parentId in ids for span in spans)
    )


@pytest.fixture
def spans(traces: Traces, journey: Journey) -> list[Span]:
    return traces.of(journey.trace_id)


def applied(spans: list[Span], arm: str) -> Span:
    """The processing by an arm that applied the message: it may have been tried before, and be delivered again."""
    return select(spans, "process orders.v1", f"arm.{arm}", delivery_outcome="applied")[0]


def below(spans: list[Span], process: Span) -> set[str]:
    """The names of the effects of a processing."""
    return {span.name for span in spans if span.parentId == process.id and not span.name.startswith("commit")}


def test_a_request_and_its_insert_begin_the_trace(journey: Journey, spans: list[Span]) -> None:
    (request,) = select(spans, "post /orders", "orders")
    assert (request.kind, request.parentId) == ("SERVER", CLIENT)
    assert request.tags["http.response.status_code"] == "201"
    assert request.tags["messaging.message.id"] == journey.message_id
    (insert,) = select(spans, "insert intents", "orders")
    assert (insert.kind, insert.parentId) == ("CLIENT", request.id)


def test_the_publication_is_a_child_of_the_request_and_linked_to_its_batch(traces: Traces, spans: list[Span]) -> None:
    sends = {send.id: send for send in select(spans, "send orders.v1", "relay")}  # a relay that went back sends again
    assert all(list(ancestors(spans, send)) == ["post /orders"] for send in sends.values())
    (received,) = (span for span in spans if span.id == applied(spans, "effectively_once").parentId)
    send = sends[received.parentId]
    assert send.kind == "PRODUCER"
    ((batch_trace, batch_id),) = send.links("batch")
    batch = traces.wait_for(batch_trace, "send", "relay")
    assert (batch.id, batch.kind) == (batch_id, "CLIENT")
    assert int(batch.tags["messaging.batch.message_count"]) >= 1


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_receives_processes_and_links_to_its_chunk(traces: Traces, spans: list[Span], arm: str) -> None:
    process = applied(spans, arm)
    assert process.kind == "CONSUMER"
    assert list(ancestors(spans, process)) == ["receive orders.v1", "send orders.v1", "post /orders"]
    assert process.tags["messaging.consumer.group.name"] == f"payments.{arm}"
    ((chunk_trace, chunk_id),) = process.links("chunk")
    chunk = traces.wait_for(chunk_trace, "poll orders.v1", f"arm.{arm}")
    assert chunk.id == chunk_id
    offset = int(process.tags["messaging.kafka.offset"])
    if "delivery.offset.first" in chunk.tags:  # a batch of transactions may be of several partitions
        assert int(chunk.tags["delivery.offset.first"]) <= offset <= int(chunk.tags["delivery.offset.last"])


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "stock_faust"])
def test_every_commit_that_can_be_heard_of_is_a_child_of_the_processing(spans: list[Span], arm: str) -> None:
    commit, *_ = select(spans, "commit orders.v1", f"arm.{arm}")
    assert commit.tags["messaging.operation.type"] == "settle"
    assert next(ancestors(spans, commit)) == "process orders.v1"


@pytest.mark.parametrize("arm", ARMS)
def test_every_effect_is_a_child_of_the_processing(spans: list[Span], arm: str) -> None:
    assert below(spans, applied(spans, arm)) == EFFECTS[arm]


def strike(lab: Lab, traces: Traces, *armed: str) -> Journey:
    """Place an order that a failpoint befalls."""
    lab.arm(*armed)
    return traces.order(effects="record,charge")


def test_a_retry_says_attempt_tier_and_reason_and_is_linked_to_the_attempt_before(lab: Lab, traces: Traces) -> None:
    name, process = "process payments.effectively_once.retry.1s", "retry.effectively_once"
    second = {"delivery_attempt": "2", "delivery_via": "retry", "delivery_outcome": "resumed"}
    armed = ("provider.before_applying", "error:http_500", "arm=effectively_once", "count=1")
    journey = in_time(
        lab,
        lambda: strike(lab, traces, *armed),
        lambda journey: select(traces.of(journey.trace_id), name, process, **second),
    )
    again = traces.wait_for(journey.trace_id, name, process, **second)
    spans = traces.of(journey.trace_id)
    first, *_ = select(spans, "process orders.v1", "arm.effectively_once", delivery_outcome="deferred")
    assert again.links("attempt") == [(journey.trace_id, first.id)]
    sent, *_ = select(spans, "send payments.effectively_once.retry.1s", "arm.effectively_once")
    assert (sent.kind, sent.parentId) == ("PRODUCER", first.id)
    assert {name: sent.tags[f"delivery.{name}"] for name in ("attempt", "tier", "reason")} == {
        "attempt": "1", "tier": "1s", "reason": "provider_error",
    }  # fmt: skip


def test_a_dead_letter_and_its_redrive_are_linked(lab: Lab, traces: Traces) -> None:
    sent = ("send payments.at_least_once.dlq", "arm.at_least_once")
    armed = ("provider.before_applying", "error:http_400", "arm=at_least_once", "count=1")
    journey = in_time(
        lab, lambda: strike(lab, traces, *armed), lambda journey: select(traces.of(journey.trace_id), *sent)
    )
    letter = traces.wait_for(journey.trace_id, *sent)
    assert letter.kind == "PRODUCER"
    (first,) = [span for span in traces.of(journey.trace_id) if span.id == letter.parentId]
    assert first.tags["delivery.outcome"] == "dead_lettered"
    redriven = ("dlq", "redrive", "--id", journey.message_id, "--why", "a test", "--json")
    operation = json.loads(lab.cli(*redriven))["operation"]
    again = traces.wait_for(journey.trace_id, "process payments.at_least_once.redelivery", "retry.at_least_once")
    ids = operation_ids(operation)
    assert again.links("redrive") == [ids]
    assert again.links("attempt") == [(journey.trace_id, first.id)]
    assert traces.wait_for(ids[0], "redrive", "lab").id == ids[1]
    send = traces.wait_for(journey.trace_id, "send payments.at_least_once.redelivery", "relay")
    assert send.links("redrive") == [ids]


def test_a_replayed_message_is_linked_to_its_replay(lab: Lab, traces: Traces, journey: Journey) -> None:
    process = applied(traces.of(journey.trace_id), "effectively_once")
    partition, offset = process.tags["messaging.destination.partition.id"], process.tags["messaging.kafka.offset"]
    window = ("--topic", "orders.v1", "--offsets", f"{partition}:{offset}-{offset}")
    replay = json.loads(lab.cli("replay", "--arm", "effectively_once", *window, "--json"))["id"]
    again = traces.wait_for(
        journey.trace_id, "process payments.effectively_once.redelivery", "retry.effectively_once",
        delivery_via="replay",
    )  # fmt: skip
    assert (again.tags["delivery.decision"], again.tags["delivery.reason"]) == ("duplicate", "replay")
    ids = operation_ids(replay)
    assert again.links("replay") == [ids]
    assert traces.wait_for(ids[0], "replay orders.v1", "lab").id == ids[1]


def test_what_was_not_sampled_and_not_plainly_applied_has_a_span_without_ancestors(traces: Traces) -> None:
    journey = traces.order(sampled=False)
    status, _ = traces.send(journey, sampled=False)
    assert status == 201
    replayed = traces.wait_for(journey.trace_id, "post /orders", "orders")
    assert replayed.tags["delivery.decision"] == "duplicate"
    assert replayed.tags["messaging.message.id"] == journey.message_id
    assert [span.name for span in traces.of(journey.trace_id)] == ["post /orders"]


def test_the_tree_of_a_message_tells_of_an_attempt_that_was_killed(lab: Lab, traces: Traces) -> None:
    processed = ("process orders.v1", "arm.at_least_once")
    armed = ("process.after_record_before_commit", "kill", "arm=at_least_once", "count=1")
    journey = in_time(
        lab, lambda: strike(lab, traces, *armed), lambda journey: select(traces.of(journey.trace_id), *processed)
    )
    traces.wait_for(journey.trace_id, *processed)
    tree = lab.cli("trace", journey.message_id)
    assert re.search(r"arm\.at_least_once#0 life \w{8} .*did charge, record \(attempt killed, span lost\)", tree), tree
    assert "send orders.v1" in tree
    document = json.loads(lab.cli("trace", journey.message_id, "--json"))
    assert document["trace_ids"] == [journey.trace_id]
    (killed,) = [one for one in document["without_span"] if one["fate"] == "killed"]
    assert (killed["process"], killed["effects"]) == ("arm.at_least_once#0", ["charge", "record"])
    (root,) = document["tree"]
    assert names_below(root) >= {"POST /orders", "INSERT intents", "send orders.v1", "process orders.v1"}


def test_an_id_that_no_message_has_is_an_error(lab: Lab) -> None:
    lab.cli("trace", "0190a1b2-0000-7000-8000-000000000000", exits=1)
    lab.cli("trace", "no-id", exits=2)


def operation_ids(operation: str) -> tuple[str, str]:
    context = operation_context(operation)
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def names_below(node: dict[str, Any]) -> set[str]:
    return {node["name"]}.union(*(names_below(child) for child in node["children"]))
