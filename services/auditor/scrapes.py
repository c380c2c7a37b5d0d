"""What Prometheus last scraped of every life: raw samples, no `increase()`, because that extrapolates."""

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from services.domain.observed import Scrape
from services.telemetry.catalogue import METRICS

TIMEOUT_S: Final = 5.0
_INFO: Final = METRICS["delivery.process_info"].prometheus
_UNTIL: Final = METRICS["delivery.counted_until_timestamp"].prometheus
_COUNTERS: Final = {
    name: METRICS[name].prometheus for name in ("delivery.effects", "delivery.dedup.decisions", "delivery.dead_letters")
}


class PrometheusAway(Exception):
    """Prometheus does not answer, or not what was asked; the text says why."""


class LastScrape(msgspec.Struct, frozen=True):
    """The last scrape of one life."""

    life: str
    process: str
    scrape: Scrape
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]  # (catalogue name, labels) -> value

    def counted(self, name: str, **labels: str) -> int:
        """The sum of a counter's samples with these labels."""
        wanted = set(labels.items())
        return round(sum(value for (found, given), value in self.samples.items() if found == name and wanted <= given))


class Scrapes:
    """Asks one Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def last(self, processes: str, window_s: float, now: float) -> list[LastScrape]:
        """The last scrape of every life of the processes (a regular expression) within the window before `now`.

        Raises PrometheusAway.
        """
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            found = await self._query(session, f'{_INFO}{{instance=~"{processes}"}}[{int(window_s)}s]', now)
            lives = [(one["metric"]["life"], one["metric"]["instance"], one["values"][-1][0]) for one in found]
            return [await self._of_life(session, *life) for life in lives]

    async def _of_life(self, session: aiohttp.ClientSession, life: str, process: str, at: float) -> LastScrape:
        names = "|".join((*_COUNTERS.values(), _UNTIL))
        found = await self._query(session, f'{{__name__=~"{names}",instance="{process}"}}', at)
        known = {prometheus: name for name, prometheus in _COUNTERS.items()}
        until, samples = 0.0, {}
        for one in found:
            labels, value = dict(one["metric"]), float(one["value"][1])
            prometheus = labels.pop("__name__")
            if prometheus == _UNTIL:
                until = value
            else:
                samples[known[prometheus], frozenset(labels.items())] = value
        return LastScrape(life, process, Scrape(at, until), samples)

    async def _query(self, session: aiohttp.ClientSession, query: str, at: float) -> list[Any]:
        try:
            async with session.get(f"{self._url}/api/v1/query", params={"query": query, "time": f"{at:.3f}"}) as answer:
                document = await answer.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise PrometheusAway(f"Prometheus at {self._url} does not answer: {error!r:.200}") from error
        if document.get("status") != "success":
            raise PrometheusAway(f"Prometheus at {self._url}: {document.get('error', document)!r:.300}")
        result: list[Any] = document["data"]["result"]
        return result
