"""The last scrape of every life, as Prometheus's API tells it: a server in this loop answers as the API does."""

from collections.abc import AsyncIterator
from typing import Any

import promql_parser
import pytest
from aiohttp import web

from services.auditor.scrapes import PrometheusAway, Scrapes
from services.domain.observed import Scrape

EFFECTS = {"__name__": "delivery_effects_total", "instance": "arm.a#0", "arm": "a", "effect": "record"}
INFO = [
    {"metric": {"instance": "arm.a#0", "life": "one"}, "values": [[10.5, "1"], [11.5, "1"]]},
    {"metric": {"instance": "arm.a#0", "life": "two"}, "values": [[20.25, "1"]]},
]
# What was counted at the time of each life's last scrape.
SAMPLES = {
    "11.500": [
        {"metric": {**EFFECTS, "outcome": "applied"}, "value": [11.5, "7"]},
        {"metric": {**EFFECTS, "outcome": "uncertain"}, "value": [11.5, "2"]},
        {"metric": {"__name__": "delivery_counted_until_timestamp_seconds"}, "value": [11.5, "11.25"]},
    ],
    "20.250": [{"metric": {**EFFECTS, "outcome": "applied"}, "value": [20.25, "3"]}],
}


@pytest.fixture
async def prometheus() -> AsyncIterator[str]:
    async def query(request: web.Request) -> web.Response:
        try:
            promql_parser.parse(request.query["query"])
        except ValueError as error:
            return web.json_response({"status": "error", "error": str(error)}, status=400)
        found: Any = INFO if "process_info" in request.query["query"] else SAMPLES[request.query["time"]]
        return web.json_response({"status": "success", "data": {"result": found}})

    app = web.Application()
    app.add_routes([web.get("/api/v1/query", query)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_each_life_is_told_by_the_samples_of_its_own_last_scrape(prometheus: str) -> None:
    one, two = await Scrapes(prometheus).last("arm.*", window_s=60, now=30)
    assert (one.life, one.process, one.scrape) == ("one", "arm.a#0", Scrape(at=11.5, counted_until=11.25))
    assert one.counted("delivery.effects", arm="a", outcome="applied") == 7
    assert one.counted("delivery.effects", arm="a") == 9
    assert one.counted("delivery.dead_letters", arm="a") == 0
    assert (two.life, two.counted("delivery.effects", outcome="applied")) == ("two", 3)


async def test_a_prometheus_that_is_not_there_is_away() -> None:
    with pytest.raises(PrometheusAway, match="does not answer"):
        await Scrapes("http://127.0.0.1:9").last("arm.*", window_s=60, now=30)


async def test_an_answer_that_is_an_error_is_said(prometheus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.auditor.scrapes._INFO", "{broken")
    with pytest.raises(PrometheusAway, match="unexpected left brace"):
        await Scrapes(prometheus).last("arm.*", window_s=60, now=30)
