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
from services.stack.nemesis import Fault

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
            assert "$" not in asked.replace(")$'", "")


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
    labels = {"hop": "process", "arm": "a", "effect": "record"}
    answers = [(t, [{"metric": labels, "value": [0, str(n)]}]) for n, t in enumerate(panel.targets)]
    shown = frames.table(panel, answers)
    assert shown.columns[:5] == ["hop", "arm", "effect", "expected", "applied once"]
    assert shown.rows == [["process", "a", "record", *map(float, range(8))]]


def _prometheus() -> Source:
    return Source(type="prometheus", uid="prometheus")


def test_the_pages_ask_nothing_of_the_network() -> None:
    for file in ASSETS.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
