"""The console: what it refuses to draw, what it asks, what it keeps; served over HTTP before a small Prometheus."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from starlette.applications import Starlette

from services.console import ask, frames
from services.console.app import ASSETS, Console, make_app
from services.console.boards import Board, Source, Table, Target, load
from services.console.received import Received, cause
from services.console.runs import runs
from services.console.sources import Evidence, Prometheus
from services.http.serving import make_server
from services.stack.nemesis import Fault, read_faults

BOARDS = {uid: board for uid, (board, _) in load().items()}
OVERVIEW = BOARDS["lab-overview"]
TEXT = load()["lab-overview"][1]
VIEW = ask.View(1_000.0, 1_900.0)


def test_every_committed_board_can_be_drawn() -> None:
    assert len(BOARDS) == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"type": "stat"', '"type": "gauge"'),
        ('"graphMode": "none"', '"graphMode": "area"'),
        ('"unit": "cps"', '"unit": "velocityms"'),
        ('"id": "merge"', '"id": "reduce"'),
        ('"lineWidth": 2', '"lineWidth": 2, "drawStyle": "bars"'),
        ('"type": "custom"', '"type": "query"'),
        ('"fill": "dash"', '"fill": "dot"'),
        ('"id": "sortBy"', '"id": "limit"'),
        ('"match": "null+nan"', '"match": "true"'),
    ],
)
def test_what_it_cannot_draw_is_an_error_and_no_blank(old: str, new: str) -> None:
    changed = TEXT.decode().replace(old, new, 1)
    assert changed != TEXT.decode()
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(changed.encode(), type=Board)


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.uid)
def test_every_query_of_every_board_can_be_asked(board: Board) -> None:
    values = ask.words(board, VIEW)
    for panel in board.panels:
        for target in panel.targets:
            asked = ask.expression(target, values, VIEW)
            assert "$" not in asked.replace(")$'", "").replace('"$1"', "")  # an anchor, and label_replace's group


def test_nothing_chosen_is_all_and_several_are_alternatives() -> None:
    def chosen(*arms: str) -> str:
        return ask.words(OVERVIEW, ask.View(0, 900, {"arm": arms}))["arm"]

    assert chosen() == ".*"
    assert chosen("$__all") == ".*"
    assert chosen("at_most_once") == "at_most_once"
    assert chosen("at_most_once", "stock_faust") == "(at_most_once|stock_faust)"
    with pytest.raises(ValueError, match="arm is never"):
        chosen("x' OR '1'='1")


def test_rate_windows_hold_four_scrapes_and_grow_with_the_step() -> None:
    short, long = (ask.words(OVERVIEW, ask.View(0, seconds)) for seconds in (300, 21_600))
    assert (short["__rate_interval"], short["__interval"], short["__range"]) == ("20s", "2s", "300s")
    assert long["__rate_interval"] == "95s"


def test_a_line_has_a_gap_where_nothing_was_scraped() -> None:
    target = Target(ref_id="A", datasource=_prometheus(), legend_format="{{arm}} {{effect}}")
    (line,) = frames.lines(target, [{"metric": {"arm": "a"}, "values": [[10, "1"], [12, "2"], [30, "NaN"]]}], 2)
    assert line.name == "a"
    assert line.points == [(10, 1.0), (12, 2.0), (14, None), (30, None)]


def test_a_table_joins_its_queries_by_their_labels() -> None:
    panel = next(panel for panel in OVERVIEW.panels if isinstance(panel, Table))
    labels = {"hop": "3 process", "arm": "a", "effect": "record"}
    answers = [(t, [{"metric": labels, "value": [0, str(n)]}]) for n, t in enumerate(panel.targets)]
    shown = frames.table(panel, answers)
    assert shown.columns[:6] == ["hop", "arm", "effect", "per second", "expected", "applied once"]
    assert shown.rows == [["3 process", "a", "record", 8.0, *map(float, range(8))]]


def test_rows_are_sorted_by_what_the_panel_names_and_what_a_hop_lacks_is_null() -> None:
    panel = next(panel for panel in OVERVIEW.panels if isinstance(panel, Table))
    rows = [("3 process", "a", "record"), ("2 publish", "outbox", "publication"), ("1 accept", "z", "intent")]
    labels = [dict(zip(("hop", "arm", "effect"), row, strict=True)) for row in rows]
    shown = frames.table(panel, [(panel.targets[0], [{"metric": one, "value": [0, "1"]} for one in labels])])
    assert [row[0] for row in shown.rows] == ["1 accept", "2 publish", "3 process"]
    assert {row[shown.columns.index("waiting")] for row in shown.rows} == {None}


def _prometheus() -> Source:
    return Source(type="prometheus", uid="prometheus")


def notification(name: str = "EventsLost", status: str = "firing", started: str = "2026-11-24T09:00:00Z") -> bytes:
    alert = {
        "status": status, "labels": {"alertname": name, "severity": "page", "arm": "a"},
        "annotations": {"summary": "LOST 3", "runbook_url": "http://127.0.0.1:21030/runbooks/EventsLost"},
        "startsAt": started, "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "f",
    }  # fmt: skip
    return json.dumps({"receiver": "console", "status": status, "alerts": [alert]}).encode()


def test_pages_outlive_the_console_and_a_line_that_a_kill_cut(tmp_path: Path) -> None:
    file = tmp_path / "pages.jsonl"
    assert Received(file).take(notification()) == 1
    with file.open("ab") as stream:
        stream.write(b'{"received": 1')
    (page,) = Received(file).pages
    assert (page.name, page.severity, page.labels, page.summary) == ("EventsLost", "page", {"arm": "a"}, "LOST 3")
    assert page.delay_s > 0


def test_the_pages_kept_are_bounded(tmp_path: Path) -> None:
    received = Received(tmp_path / "pages.jsonl")
    for _ in range(2_050):
        received.take(notification())
    assert len(received.pages) == 1_000
    assert len((tmp_path / "pages.jsonl").read_bytes().splitlines()) <= 2_000


def test_a_page_is_told_by_the_last_fault_before_it(tmp_path: Path) -> None:
    received = Received(tmp_path / "pages.jsonl")
    received.take(notification())
    page = received.pages[0]

    def fault(kind: str, before_s: float) -> Fault:
        return Fault(kind, kind, "relay#0", page.started - before_s, "cli", 1, {})

    early, late, armed, after = fault("kill", 30), fault("freeze", 5), fault("arm", 1), fault("restart", -2)
    assert cause(page, [early, late, armed, after]) is late
    assert cause(page, [fault("kill", 500)]) is None


def test_a_runs_range_goes_from_before_its_load_to_after_its_drain(tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    file = tmp_path / "r1" / "load.json"
    file.write_text('{"run": "r1", "duration_s": 60, "planned": 3}')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "load.json").write_text("{")
    (found,) = runs(tmp_path)
    ended = file.stat().st_mtime
    assert (found.run, found.from_s, found.to_s) == ("r1", ended - 70, ended + 60)


class Small:
    """A Prometheus that answers every query with one series of the arm a or as told, or says that it is broken."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False
        self.answers: dict[str, list[dict[str, str]]] = {}  # a part of a query -> the series' labels

    async def answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append(str(form["query"]))
        if self.broken:
            return web.json_response({"status": "error", "error": "out of order"}, status=422)
        labels = next((found for part, found in self.answers.items() if part in self.asked[-1]), [{"arm": "a"}])
        if request.path.endswith("query_range"):
            value: dict[str, Any] = {"values": [[float(str(form["start"])), "1"], [float(str(form["end"])), "2"]]}
        else:
            value = {"value": [float(str(form["time"])), "3"]}
        result = [{"metric": one, **value} for one in labels]
        return web.json_response({"status": "success", "data": {"result": result}})


class Served(msgspec.Struct):
    url: str
    prometheus: Small
    home: Path
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """The console over a small Prometheus, without a database."""
    small, application = Small(), web.Application()
    application.add_routes([web.post("/api/v1/{kind}", small.answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    (tmp_path / "run").mkdir()
    now = time.time()
    fault = Fault("f1", "kill", "relay#0", now - 60, "cli", 1, {"failpoint": "publish.half_batch"}, now - 58)
    (tmp_path / "run" / "nemesis.jsonl").write_bytes(msgspec.json.encode(fault) + b"\n")
    async with aiohttp.ClientSession() as session:
        console = Console(
            Prometheus(f"http://127.0.0.1:{port}", session),
            Evidence("postgresql://nobody@127.0.0.1:9"),
            tmp_path,
            Received(tmp_path / "run" / "pages.jsonl"),
            21_012,
        )
        async with _serving(make_app(console)) as url:
            yield Served(url, small, tmp_path, session)
    await runner.cleanup()


class _serving:  # used as a block
    def __init__(self, app: Starlette) -> None:
        self._server = make_server(app)
        self._socket = socket.create_server(("127.0.0.1", 0))

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task


def last_15_minutes() -> str:
    now = time.time()
    return f"from={now - 900:.3f}&to={now:.3f}"


async def test_one_call_answers_all_panels_and_the_fault_windows(served: Served) -> None:
    answer = await served.get(f"/api/boards/lab-overview/data?{last_15_minutes()}&var-arm=at_most_once")
    asking = [panel for panel in OVERVIEW.panels if panel.targets]
    assert answer["panels"].keys() == {str(panel.id) for panel in asking}
    assert not [panel for panel in answer["panels"].values() if "error" in panel]
    (fault,) = answer["faults"]
    assert (fault["fault"], fault["target"], fault["failpoint"]) == ("kill", "relay#0", "publish.half_batch")
    assert any('arm=~"at_most_once|.*"' in query for query in served.prometheus.asked)


async def test_a_source_that_fails_is_said_in_the_panel_and_the_page_lives(served: Served) -> None:
    served.prometheus.broken = True
    answer = await served.get(f"/api/boards/lab-duplicates-and-loss/data?{last_15_minutes()}")
    said = [panel["error"] for panel in answer["panels"].values()]
    assert any("out of order" in text for text in said)
    assert any("auditor's database does not answer" in text for text in said)


@pytest.mark.parametrize(
    "query", ["", "from=1", "from=2&to=1", "from=0&to=99999999", "from=a&to=b", "from=1&to=9&var-arm=x"]
)
async def test_a_wrong_range_or_value_is_a_sentence(served: Served, query: str) -> None:
    async with served.session.get(f"{served.url}/api/boards/lab-overview/data?{query}") as response:
        assert response.status == 400
        assert len(await response.text()) < 200


async def test_alertmanagers_webhook_is_kept_and_shown_with_its_fault(served: Served) -> None:
    (fault,) = read_faults(served.home / "run" / "nemesis.jsonl")
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fault.started + 5))
    json_type = {"Content-Type": "application/json"}
    async with served.session.post(
        f"{served.url}/api/alerts", data=notification(started=began), headers=json_type
    ) as response:
        assert await response.json() == {"received": 1}
    (page,) = await served.get("/api/received")
    assert page["name"] == "EventsLost"
    assert page["cause"]["fault"] == "kill"
    assert 60 <= page["cause"]["after_s"] <= time.time() - fault.started + 0.1  # it is rounded


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [("text/plain", b"{}", 415), ("application/json", b"{}", 400), ("application/json", b"[" * 1_100_000, 413)],
)
async def test_what_is_no_notification_is_refused(served: Served, kind: str, body: bytes, status: int) -> None:
    async with served.session.post(f"{served.url}/api/alerts", data=body, headers={"Content-Type": kind}) as response:
        assert response.status == status


async def test_pages_runbooks_and_assets_are_there_and_nothing_else(served: Served) -> None:
    for path, status in {
        "/d/lab-overview": 200, "/received": 200, "/runbooks/EventsLost": 200, "/assets/console.js": 200,
        "/runbooks/..%2Frules": 404, "/assets/..%2Fapp.py": 404, "/assets/no.js": 404, "/api/boards/no": 404,
    }.items():  # fmt: skip
        async with served.session.get(served.url + path) as response:
            assert response.status == status, path
    async with served.session.get(f"{served.url}/runbooks/EventsLost") as response:
        assert "<h1>EventsLost</h1>" in await response.text()


async def test_a_trace_is_on_the_page_of_the_trace_store(served: Served) -> None:
    async with served.session.get(f"{served.url}/traces/{'a' * 32}", allow_redirects=False) as response:
        assert response.headers["location"] == f"http://127.0.0.1:21012/zipkin/traces/{'a' * 32}"
    async with served.session.get(f"{served.url}/traces/..%2F..%2Fevil", allow_redirects=False) as response:
        assert response.status == 404


def test_the_pages_ask_nothing_of_the_network() -> None:
    for file in ASSETS.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
