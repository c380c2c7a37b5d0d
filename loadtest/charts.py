"""Charts as inline SVG: lines over time, with the windows of faults drawn in. Pure, and readable without colour."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from dashboards.palette import ARM_COLOURS, BROKEN, NEUTRAL
from loadtest.kept import KeptFault
from loadtest.timeline import Chart, Series, Timeline

_WIDTH: Final = 920
_HEIGHT: Final = 130
_LEFT: Final = 56
_RIGHT: Final = 26
_TOP: Final = 22
_BOTTOM: Final = 20
_SHORTEST_WINDOW: Final = 2.0  # pixels: a kill is over in no time
_DASHES: Final = ("", "6 3", "2 3", "8 3 2 3", "1 2")  # so that lines can be told apart on paper
_OTHER: Final = "#4A5568"


def svg(chart: Chart, timeline: Timeline, faults: Sequence[KeptFault]) -> str:
    """One chart. Windows are numbered as in the report's table of faults."""
    drawing = _Drawing(chart, timeline)
    parts = [*drawing.windows(faults), *drawing.axes(), *drawing.lines()]
    label = escape(f"{chart.title}, {chart.unit}", quote=True)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" class="chart">'
        + "".join(parts) + "</svg>"
    )  # fmt: skip


def legend(chart: Chart) -> str:
    """The names of the lines, with their colours, dashes and last values."""
    items = []
    for number, series in enumerate(chart.series):
        sample = (
            f'<svg width="26" height="8" class="sample"><line x1="0" y1="4" x2="26" y2="4" stroke="{_colour(series)}" '
            f'stroke-width="2.5" stroke-dasharray="{_DASHES[number % len(_DASHES)]}"/></svg>'
        )
        most = max(series.values, default=0.0)
        items.append(f"<span>{sample} {escape(series.name)} <small>at most {_figure(most)}</small></span>")
    return f'<p class="legend">{" ".join(items)}</p>'


class _Drawing:
    def __init__(self, chart: Chart, timeline: Timeline) -> None:
        self._chart = chart
        self._begin = timeline.begin
        self._bucket_s = timeline.bucket_s
        self._many = max((len(series.values) for series in chart.series), default=1)
        self._most = max((max(series.values, default=0.0) for series in chart.series), default=0.0) or 1.0
        self._seconds = max(1.0, self._many * timeline.bucket_s)

    def _x(self, seconds: float) -> float:
        share = min(max(seconds / self._seconds, 0.0), 1.0)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def _y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self._most * (_HEIGHT - _TOP - _BOTTOM), 1)

    def windows(self, faults: Sequence[KeptFault]) -> Iterator[str]:
        bottom = _HEIGHT - _BOTTOM
        for number, fault in enumerate(faults, 1):
            left = self._x(fault.started - self._begin)
            right = self._x((fault.ended or fault.started) - self._begin)
            wide = max(_SHORTEST_WINDOW, right - left)
            said = escape(f"{number}: {fault.name} {fault.target}")
            yield (
                f'<rect x="{left}" y="{_TOP}" width="{wide:.1f}" height="{bottom - _TOP}" class="window">'
                f"<title>{said}</title></rect>"
                f'<line x1="{left}" x2="{left}" y1="{_TOP}" y2="{bottom}" stroke="{BROKEN}" stroke-dasharray="3 2"/>'
                f'<text x="{left}" y="{_TOP - 4 - 8 * (number % 2)}" class="number">{number}</text>'
            )

    def axes(self) -> Iterator[str]:
        bottom = _HEIGHT - _BOTTOM
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" stroke="{NEUTRAL}"/>'
        for value in (0.0, self._most):
            yield f'<text x="{_LEFT - 6}" y="{self._y(value) + 4}" class="value">{_figure(value)}</text>'
        step = next((s for s in (5, 10, 30, 60, 120, 300, 600) if self._seconds / s <= 13), 1800)
        for seconds in range(0, int(self._seconds) + 1, step):
            x = self._x(seconds)
            yield f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}" stroke="{NEUTRAL}"/>'
            yield f'<text x="{x}" y="{_HEIGHT - 4}" class="time">{seconds} s</text>'

    def lines(self) -> Iterator[str]:
        for number, series in enumerate(self._chart.series):
            points = " ".join(
                f"{self._x((place + 0.5) * self._bucket_s)},{self._y(value)}"
                for place, value in enumerate(series.values)
            )
            yield (
                f'<polyline points="{points}" fill="none" stroke="{_colour(series)}" stroke-width="1.8" '
                f'stroke-dasharray="{_DASHES[number % len(_DASHES)]}"/>'
            )


def _colour(series: Series) -> str:
    return ARM_COLOURS.get(series.name, _OTHER)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
