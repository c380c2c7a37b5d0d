"""What a benchmark makes of its rounds."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import pytest

from lab.bench import _carry_out
from loadtest.bench import place
from loadtest.bench.answer import Measured, answer_of
from loadtest.bench.http_load import send
from loadtest.bench.ingest import orders
from loadtest.bench.work import interleave
from services.stack.home import Home


class Fake:
    """A contender whose rounds are as good as told, after the one that does not count."""

    def __init__(self, name: str, values: list[float], log: list[str], **more: float) -> None:
        self.name, self._values, self._log, self._more = name, iter([0.0, *values]), log, more

    async def round(self) -> Measured:
        self._log.append(self.name)
        return Measured({"rows per second": next(self._values), **self._more})


async def test_rounds_go_by_turns_and_the_first_does_not_count() -> None:
    log: list[str] = []
    project, anchor = Fake("project", [1, 2], log), Fake("anchor", [4, 4], log)
    found = await interleave(2, project, anchor, lambda _: None)
    assert log == ["anchor", "project", "project", "anchor", "anchor", "project"]
    assert [(p.values["rows per second"], a.values["rows per second"]) for p, a in found] == [(1, 4), (2, 4)]


async def test_a_round_of_several_turns_is_their_mean() -> None:
    log: list[str] = []
    project, anchor = Fake("project", [0, 1, 3], log), Fake("anchor", [0, 4, 6], log)
    found = await interleave(1, project, anchor, lambda _: None, turns=2)
    assert log == ["anchor", "project", "project", "anchor", "project", "anchor", "anchor", "project"]
    assert [(p.values["rows per second"], a.values["rows per second"]) for p, a in found] == [(2, 5)]


async def test_the_answer_has_the_ratio_of_each_round_and_their_median() -> None:
    log: list[str] = []
    project, anchor = Fake("project", [1, 2, 9], log, ms=3.0), Fake("anchor", [4, 4, 6], log)
    found = await interleave(3, project, anchor, lambda _: None)
    document = answer_of("work", "the relay", "a loop", found).document()
    assert document["rounds"] == [
        {"project": 1, "anchor": 4},
        {"project": 2, "anchor": 4},
        {"project": 9, "anchor": 6},
    ]
    assert document["ratio_median"] == 0.5  # of 0.25, 0.5 and 1.5
    assert document["difference_median"] == -2  # of -3, -2 and 3
    assert document["median"] == {"project": 2, "anchor": 4}
    assert document["unit"] == "rows per second"
    assert document["host"]["cpus"] > 0
    assert document["versions"]["python"]


async def test_what_only_the_project_has_stands_without_a_ratio() -> None:
    log: list[str] = []
    project, anchor = Fake("project", [1], log, ms=3.0), Fake("anchor", [4], log)
    (also,) = answer_of("work", "", "", await interleave(1, project, anchor, lambda _: None)).document()["also"]
    assert also == {
        "unit": "ms",
        "rounds": [{"project": 3, "anchor": None}],
        "median": {"project": 3, "anchor": None},
        "ratio_median": None,
        "difference_median": None,
    }


def test_no_two_orders_of_the_load_are_the_same() -> None:
    requests = list(orders(100))
    assert len(set(requests)) == 100
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head


async def test_every_request_is_answered_and_a_rate_is_not_exceeded() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has gone
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    answered = await send("127.0.0.1", port, orders(40), connections=4, rate=200)
    assert answered.statuses == {201: 40}
    assert len(answered.latencies_ms) == 40
    assert time.monotonic() - began >= (40 - 4) / 200
    server.close()


async def test_a_connection_that_is_closed_ends_the_load_with_an_error() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    with pytest.raises(OSError, match="closed a connection"):
        await send("127.0.0.1", server.sockets[0].getsockname()[1], orders(4), connections=1)
    server.close()


def test_people_get_a_row_a_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "servers", lambda *_: contextlib.nullcontext(Home(tmp_path, 21_000)))
    rounds = [(Measured({"rows per second": 6}), Measured({"rows per second": 4}))]
    before = signal.getsignal(signal.SIGTERM)
    try:
        _carry_out(lambda *_: answer_of("work", "the relay", "a loop", rounds), as_json=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out
    assert ["rows", "per", "second", "6", "4", "1.5", "2"] in [line.split() for line in said.splitlines()]
