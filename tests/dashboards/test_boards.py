"""The boards as committed: what they ask is emitted, what they say is what they ask, and they look alike."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards import generate
from dashboards.palette import ARM_COLOURS, GLOSSES
from services import auditor
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from tests.dashboards.promql import faults_of, nodes

Board = dict[str, Any]
SCHEMA = Path(auditor.__file__).parent / "schema.sql"
FILES = generate.files()
BOARDS: list[Board] = [json.loads(text) for name, text in FILES.items() if name.startswith("lab-")]
PANELS = [
    pytest.param(board, panel, id=f"{board['uid']}/{panel['title']}") for board in BOARDS for panel in board["panels"]
]
ASKING = [case for case in PANELS if case.values[1]["type"] != "text"]
PROMQL = [case for case in ASKING if "expr" in case.values[1]["targets"][0]]
each_panel = pytest.mark.parametrize(("board", "panel"), PANELS)
each_asking = pytest.mark.parametrize(("board", "panel"), ASKING)
each_promql = pytest.mark.parametrize(("board", "panel"), PROMQL)

# A word of a title says what its queries do, and the other way round.
SAYS: dict[str, Callable[[str], bool]] = {
    r"per second": lambda expr: "rate(" in expr and not expr.startswith("60 *"),
    r"per minute": lambda expr: expr.startswith("60 *") and "rate(" in expr,
    r"p50 and p99": lambda expr: "histogram_quantile(0.5," in expr or "histogram_quantile(0.99," in expr,
    r"(?<!and )\bp99": lambda expr: "histogram_quantile(0.99," in expr,
    r"\b[Ll]ost\b|[Ll]osing": lambda expr: "delivery_audit_lost_total" in expr,
    r"[Dd]uplicated|[Dd]uplicating": lambda expr: "delivery_audit_extra_applications_total" in expr,
    r"ghosts": lambda expr: "delivery_audit_unexpected_total" in expr,
    r"[Ll]ag in messages": lambda expr: "delivery_group_lag_messages" in expr,
    r"[Ll]ag in seconds": lambda expr: "delivery_group_lag_seconds" in expr,
    r"since": lambda expr: "timestamp(" in expr,
    r"longest": lambda expr: "topk(" in expr,
    r"slowest": lambda expr: expr.startswith("min("),
    r"[Mm]emory": lambda expr: "process_memory" in expr,
    r"parked": lambda expr: "delivery_dead_letters_depth" in expr,
    r"\b[Aa]ge\b": lambda expr: "age" in expr or "timestamp" in expr or "lag_seconds" in expr,
    r"[Aa]verage|[Mm]ean": lambda expr: "avg" in expr or ("_sum" in expr and "_count" in expr),
    r"[Ss]hare": lambda expr: " / " in expr,
}
ASKS = {
    "rate(": r"per second|per minute|Share|Processor use|p99|p50|slowest",
    "histogram_quantile(0.99": "p99",
    "histogram_quantile(0.5,": "p50",
    "avg": r"[Aa]verage|[Mm]ean",
    "topk(": "longest",
}
BY = {"arm": r"by arm|by publisher arm|hop", "partition": "by partition", "reason": "by reason|and reason"}


@pytest.mark.parametrize("name", FILES)
def test_the_committed_file_is_what_the_code_makes(name: str) -> None:
    assert (generate.GENERATED / name).read_text() == FILES[name], "out of date: run `make boards`"


def test_nothing_else_is_committed() -> None:
    assert {file.name for file in generate.GENERATED.iterdir()} == FILES.keys()


@each_asking
def test_a_query_of_evidence_asks_for_columns_that_the_auditor_has(board: Board, panel: Board) -> None:
    schema = SCHEMA.read_text()
    for target in panel["targets"]:
        if sql := target.get("rawSql"):
            (table,) = re.findall(r"FROM (\w+)", sql)
            assert re.search(rf"(TABLE IF NOT EXISTS|VIEW) {table}\b", schema)
            shown = [o["options"]["renameByName"] for o in panel["transformations"] if o["id"] == "organize"]
            assert all(re.search(rf"\b{column}\b", schema) for columns in shown for column in columns)


def test_there_are_the_five_boards_each_under_a_uid_that_links_may_use_for_ever() -> None:
    assert [board["uid"] for board in BOARDS] == [
        "lab-overview", "lab-duplicates-and-loss", "lab-relay-and-kafka", "lab-retries-and-dead-letters", "lab-health",
    ]  # fmt: skip


@each_promql
def test_a_query_asks_for_nothing_that_nobody_emits(board: Board, panel: Board) -> None:
    assert [fault for target in panel["targets"] for fault in faults_of(target["expr"])] == []


def test_a_query_for_what_nobody_emits_would_be_found() -> None:
    assert faults_of("sum(delivery_losts_total)") == ["no metric delivery_losts_total"]
    assert faults_of('delivery_part_up{hop="process"}') == ["delivery_part_up has no label hop"]
    wrong = 'rate(delivery_effects_total{outcome="done"}[5m])'
    assert faults_of(wrong) == ["delivery_effects_total: outcome is never 'done'"]
    assert faults_of("delivery_end_to_end_seconds") == ["no metric delivery_end_to_end_seconds"]


@each_promql
def test_a_title_says_what_its_queries_do(board: Board, panel: Board) -> None:
    title, exprs = panel["title"], [target["expr"] for target in panel["targets"]]
    for words, holds in SAYS.items():
        if re.search(words, title) and not title.startswith(("Losses taken back", "The path")):
            assert any(holds(expr) for expr in exprs), f"{title!r} says {words}"
    for call, words in ASKS.items():
        if any(call in expr for expr in exprs):
            assert re.search(words, title), f"{title!r} does not say that it is made with {call}"


@each_promql
def test_a_title_that_names_a_grouping_has_queries_that_group_so(board: Board, panel: Board) -> None:
    legends = [target.get("legendFormat", "") for target in panel["targets"]]
    for label, words in BY.items():
        if f"{{{{{label}}}}}" in legends[0] and label != "arm":
            assert re.search(words, panel["title"]), f"{panel['title']!r} shows a series a {label}"
    if re.search("by (publisher )?arm", panel["title"]):
        assert any("by (arm" in target["expr"] for target in panel["targets"])


@each_promql
def test_a_legend_shows_only_labels_that_its_query_keeps_and_begins_with_the_arm(board: Board, panel: Board) -> None:
    """A label set in braces is what Prometheus shows where there is no legend: never here."""
    for target in panel["targets"]:
        if target.get("format") == "table":
            continue
        legend, kept = target["legendFormat"], _kept(target["expr"])
        shown = re.findall(r"{{(\w+)}}", legend)
        assert set(shown) <= kept, f"{legend} of {target['expr']}"
        assert legend
        if "arm" in shown and "alertname" not in shown:
            assert legend.startswith("{{arm}}")
        unseen = kept - set(shown) - {"le"}
        assert not unseen, f"{panel['title']}: series that differ in {unseen} would have one name"


def _kept(expr: str) -> set[str]:
    """Labels of the result: of the outermost aggregations."""
    for node in nodes(expr):
        if type(node).__name__ == "AggregateExpr" and str(node.op) != "topk":
            return set(node.modifier.labels if node.modifier else ())
    return set()


@each_asking
def test_a_description_says_how_to_read_the_panel_and_what_is_normal(board: Board, panel: Board) -> None:
    how, _, normal = panel["description"].partition("\n\nNormal: ")
    assert len(how) > 10
    assert normal


@each_asking
def test_every_panel_names_its_unit_and_its_data_source(board: Board, panel: Board) -> None:
    assert panel["type"] == "state-timeline" or panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] in ("prometheus", "auditor")
        assert target["refId"]


@each_asking
def test_a_unit_fits_the_query(board: Board, panel: Board) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit")
    if re.search("per second", panel["title"]):
        assert unit == "cps"
    if any("_bytes" in target.get("expr", "") for target in panel["targets"]):
        assert unit == "bytes"
    if re.search(r"\b[Aa]ge\b|delay|latency|in seconds|duration|p99", panel["title"]):
        assert unit == "s"


@each_asking
def test_one_colour_an_arm_on_every_board(board: Board, panel: Board) -> None:
    overrides = panel["fieldConfig"]["overrides"]
    colours = {o["matcher"]["options"]: p["value"] for o in overrides for p in o["properties"] if p["id"] == "color"}
    if panel["type"] in ("timeseries", "bargauge"):
        assert colours == {
            f"/^{arm}( |$)/": {"mode": "fixed", "fixedColor": colour} for arm, colour in ARM_COLOURS.items()
        }


def test_every_arm_has_a_colour_of_its_own_and_a_gloss_of_about_six_words() -> None:
    arms = [*CONSUMER_ARMS, *PUBLISHER_ARMS]
    assert set(ARM_COLOURS) == set(GLOSSES) == set(arms)
    assert len(set(ARM_COLOURS.values())) == len(arms)
    assert all(len(gloss.split()) <= 7 for gloss in GLOSSES.values())


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_panels_have_ids_and_places_of_their_own(board: Board) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in board["panels"]):
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_every_board_has_the_variables_the_fault_windows_and_a_way_to_the_others(board: Board) -> None:
    assert [variable["name"] for variable in board["templating"]["list"]] == ["arm", "publisher", "console"]
    assert [note["name"] for note in board["annotations"]["list"]] == ["Faults"]
    assert board["links"][0]["tags"] == ["delivery-lab"] == board["tags"]
    assert "placement" not in board["links"][0]


@pytest.mark.parametrize("board", BOARDS[:1], ids=lambda board: board["uid"])
def test_the_overview_begins_with_numbers_and_shows_0_as_0(board: Board) -> None:
    first = [panel for panel in board["panels"] if panel["gridPos"]["y"] < 14]
    assert {panel["type"] for panel in first} == {"stat"}
    assert all(panel["fieldConfig"]["defaults"]["noValue"] == "0" for panel in first)
