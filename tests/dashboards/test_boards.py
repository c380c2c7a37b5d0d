"""The boards as committed: what they ask is emitted, what they say is what they ask, and they look alike."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards import generate, queries
from dashboards.palette import ARM_COLOURS, BROKEN, GLOSSES
from dashboards.panels import NO_AUDIT
from services import auditor
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.telemetry.catalogue import METRICS
from tests.dashboards.promql import faults_of, nodes, selectors
from tests.dashboards.tools import run

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
    r"[Ss]lowest": lambda expr: expr.startswith("min("),
    r"Applied|[Ss]lowest arm": lambda expr: 'effect="record", outcome="applied"' in expr,
    r"Dedup decisions": lambda expr: 'decision!="first"' not in expr,
    r"Dedup hits": lambda expr: 'decision!="first"' in expr,
    r"[Ww]ithin the window": lambda expr: "increase(" in expr,
    r"[Mm]emory": lambda expr: "process_memory" in expr,
    r"parked": lambda expr: "delivery_dead_letters_depth" in expr or "delivery_dead_letters_oldest_age" in expr,
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
    "increase(": "within|just now|since",
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
    """Of a title that joins two things with `and`, or of a table, a query each may do so."""
    title, exprs = panel["title"], [target["expr"] for target in panel["targets"]]
    headings = " ".join(heading for t in panel.get("transformations", ())
                        for heading in t["options"].get("renameByName", {}).values())  # fmt: skip
    enough = any if headings or " and " in title else all
    for words, holds in SAYS.items():
        if re.search(words, title) and not title.startswith(("Losses taken back", "The path")):
            assert enough(holds(expr) for expr in exprs), f"{title!r} says {words}"
    for call, words in ASKS.items():
        if any(call in expr for expr in exprs):
            assert re.search(words, f"{title} {headings}", re.I), f"{title!r} does not say that it is made with {call}"


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


def test_every_arm_has_a_colour_of_its_own_and_a_gloss_of_at_most_six_words() -> None:
    arms = [*CONSUMER_ARMS, *PUBLISHER_ARMS]
    assert set(ARM_COLOURS) == set(GLOSSES) == set(arms)
    assert len(set(ARM_COLOURS.values())) == len(arms)
    assert [gloss for gloss in GLOSSES.values() if len(gloss.split()) > 6] == []


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
    assert all(panel["fieldConfig"]["defaults"]["noValue"] in ("0", NO_AUDIT) for panel in first)


def test_the_overview_says_who_is_who_on_its_first_screen() -> None:
    said = " ".join(p["options"]["content"] for p in BOARDS[0]["panels"] if p["type"] == "text" and _below(p) <= 20)
    assert all(f"**{arm}**: {gloss}" in said for arm, gloss in GLOSSES.items())


def _below(panel: Board) -> int:
    place: Board = panel["gridPos"]
    return int(place["y"] + place["h"])


@each_promql
def test_where_the_auditor_says_nothing_a_panel_says_so_and_is_not_green(board: Board, panel: Board) -> None:
    """What is missing Grafana draws as `noValue`, in the colour of 0, unless it is mapped."""
    defaults = panel["fieldConfig"]["defaults"]
    audited = any("delivery_audit_" in target["expr"] for target in panel["targets"])
    assert defaults["noValue"] == (NO_AUDIT if audited else "0")
    missing = [m["options"] for m in defaults.get("mappings", ()) if m["type"] == "special"]
    wanted = audited and panel["type"] == "stat"
    assert missing == ([{"match": "null+nan", "result": {"text": NO_AUDIT, "color": BROKEN}}] if wanted else [])


@each_asking
def test_a_cell_of_a_table_that_is_null_is_empty(board: Board, panel: Board) -> None:
    if panel["type"] == "table":
        everywhere = {"matcher": {"id": "byRegexp", "options": "/.*/"}, "properties": [{"id": "noValue", "value": ""}]}
        assert everywhere in panel["fieldConfig"]["overrides"]
        assert panel["fieldConfig"]["defaults"]["noValue"] in (NO_AUDIT, "nothing")  # where there is no row


@each_asking
def test_the_title_of_a_number_fits_beside_its_runbook(board: Board, panel: Board) -> None:
    """Six letters a column at 1,600 pixels, as the console draws them."""
    if panel["type"] == "stat":
        assert len(panel["title"]) + 8 * len(panel.get("links", ())) <= 6 * panel["gridPos"]["w"]


@pytest.mark.parametrize("arm", ["effectively_once", "outbox"])
@each_promql
def test_series_of_one_arm_in_one_chart_differ_in_their_line_style(board: Board, panel: Board, arm: str) -> None:
    if panel["type"] == "timeseries":
        names = [name for target in panel["targets"] for name in _named(target["legendFormat"], target["expr"], arm)]
        styles = [str(_styles(panel, name)) for name in names]
        assert len(set(styles)) == len(names), names


def _named(legend: str, expr: str, arm: str) -> set[str]:
    """The names that the series of an arm may have, by the catalogue's values of the metric's labels."""
    if not legend.startswith("{{arm}}"):
        return set()
    legend = legend.replace("{{arm}}", arm)
    found = set()
    for selector in selectors(expr):
        for emitter in (e for m in METRICS.values() if m.prometheus == selector.name for e in m.emitters):
            chosen = {
                label: [v for v in values if _chosen(selector, label, v)] for label, values in emitter.values.items()
            }
            if arm in chosen.get("arm", ()) and all(chosen.values()):
                (shown,) = re.findall(r"{{(\w+)}}", legend) or [""]
                found |= {legend.replace(f"{{{{{shown}}}}}", value) for value in chosen.get(shown, [""])}
    return found


def _chosen(selector: Any, label: str, value: str) -> bool:
    for matcher in selector.matchers.matchers:
        kind = str(matcher.op).rpartition(".")[2]
        if matcher.name == label and label != "arm":
            pattern = matcher.value if kind.endswith("Re") else re.escape(matcher.value)
            if bool(re.fullmatch(pattern, value)) == kind.startswith("Not"):
                return False
    return True


def _styles(panel: Board, name: str) -> list[Any]:
    overrides = panel["fieldConfig"]["overrides"]
    return [p["value"] for o in overrides if re.search(o["matcher"]["options"].strip("/"), name)
            for p in o["properties"] if p["id"] == "custom.lineStyle"]  # fmt: skip


AUDIT = "delivery_audit_lost_total"
ON_SERIES = [
    # the auditor is frozen after 10 s: its series end, and its age goes on
    (queries.AUDIT_AGE_S, {"delivery_audit_last_success_timestamp_seconds": "0+1x10 stale"}, {"{}": 50}),
    (queries.UNEXPLAINED, {"delivery_audit_unexplained": "0x10 stale"}, {}),
    (queries.UNEXPLAINED, {"delivery_audit_unexplained": "0x60"}, {"{}": 0}),
    # arms that do not run are left out, and dead ones are not
    (
        queries.LOST,
        {f'{AUDIT}{{arm="{arm}"}}': f"{number}x60" for number, arm in enumerate(("outbox", "cdc", "id_cursor", "a"))}
        | {'delivery_part_up{part="orders"}': "1x60", 'delivery_part_up{part="orders.id_cursor"}': "0x60"}
        | {'delivery_part_up{part="arm.a"}': "1x60"},
        {'{arm="outbox"}': 0, '{arm="id_cursor"}': 2, '{arm="a"}': 3},
    ),
    (queries.LOST, {f'{AUDIT}{{arm="cdc"}}': "1x60"}, {'{arm="cdc"}': 1}),  # nobody says who runs
    (
        queries.LOST_SINCE_MS,
        {f'{AUDIT}{{arm="a"}}': "0x30 1x30", f'{AUDIT}{{arm="b"}}': "4x60", f'{AUDIT}{{arm="cdc"}}': "0x30 1x30"}
        | {f'delivery_part_up{{part="arm.{arm}"}}': "1x60" for arm in "ab"},
        {'{arm="a"}': 35_000, '{arm="b"}': 0},
    ),
    # what passes the hops, only where the auditor has the row
    (
        queries.PATH_PER_S,
        {
            'delivery_audit_messages{hop="accept", arm="outbox", effect="intent", state="applied_once"}': "0+1x60",
            'delivery_audit_messages{hop="publish", arm="outbox", effect="publication", state="applied_once"}': "0x60",
            'delivery_audit_messages{hop="process", arm="a", effect="record", state="applied_once"}': "0x60",
            'delivery_dedup_decisions_total{hop="accept", arm="outbox", decision="first"}': "0+5x60",
            'delivery_topic_end_offsets_total{place="main", arm="outbox", topic="orders.v1"}': "0+4x60",
            'delivery_effects_total{arm="a", effect="record", outcome="applied"}': "0+3x60",
            'delivery_effects_total{arm="a", effect="email", outcome="applied"}': "0+2x60",
        },
        {
            '{hop="1 accept", arm="outbox", effect="intent"}': 5,
            '{hop="2 publish", arm="outbox", effect="publication"}': 4,
            '{hop="3 process", arm="a", effect="record"}': 3,
        },
    ),
]


def test_queries_on_synthetic_series(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{
                "expr": re.sub(r"\$arm\|\$publisher|\$arm|\$publisher", ".*", expr)
                .replace("$__rate_interval", "20s").replace("$__range", "60s"),
                "eval_time": "60s",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in wanted.items()],
            }],
        }
        for expr, series, wanted in ON_SERIES
    ]  # fmt: skip
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"tests": tests}))  # JSON is YAML
    run("promtool", "test", "rules", file)
