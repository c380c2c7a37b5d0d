"""Panels with the lab's defaults. Each says how it is read and what is normal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from grafana_foundation_sdk.builders import bargauge, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.text import TextMode

from dashboards.palette import ARM_COLOURS, BROKEN, EXPECTED, GOOD, LINE_STYLES, NEUTRAL, promised_series
from dashboards.sources import Query
from services.domain.arms import Promise

Queries = Sequence[Query]
ZERO_IS_GOOD: Final = ((None, GOOD), (1.0, BROKEN))
NO_AUDIT: Final = "no audit"  # what the auditor's numbers are while it says nothing: neither 0 nor green


class Reading(msgspec.Struct, frozen=True):
    """What a panel's description says."""

    how: str  # how to read it
    normal: str  # what is normal
    fault: str = ""  # the only scenario in which it can be anything but empty
    runbooks: tuple[str, ...] = ()

    def __str__(self) -> str:
        only = f"\n\nEmpty unless: {self.fault}" if self.fault else ""
        return f"{self.how}\n\nNormal: {self.normal}{only}"


Panel = Any  # the SDK's panel builders share methods, not a type


def chart(
    title: str, reading: Reading, queries: Queries, unit: str, *, steps: bool = False, stacked: bool = False,
    filled: bool = True, limit: float | None = None,
) -> Panel:  # fmt: skip
    """A chart over time. `steps` for counts that jump; `limit` draws the line above which something is wrong.

    Lines are filled down to the axis unless there are many of them.
    """
    panel = _described(timeseries.Panel(), title, reading, queries).unit(unit).min(0)
    panel.line_width(2).fill_opacity(30 if stacked else 8 if filled else 0).show_points(common.VisibilityMode.NEVER)
    panel.line_interpolation(common.LineInterpolation.STEP_AFTER if steps else common.LineInterpolation.LINEAR)
    if stacked:
        panel.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(_thresholds(((None, GOOD), (limit, BROKEN))))
        panel.thresholds_style(build.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    panel.legend(_legend())
    panel.tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    for series, dash in LINE_STYLES.items():
        panel.override_by_regexp(series, [_property("custom.lineStyle", {"fill": "dash", "dash": list(dash)})])
    return _coloured_by_arm(panel)


def number(
    title: str, reading: Reading, queries: Queries, unit: str, *, bounds: Sequence[tuple[float | None, str]] = (),
    words: Mapping[str, str] | None = None, promise: Promise | None = None, decimals: int = 0,
) -> Panel:  # fmt: skip
    """One number a series, 0 shown as 0. With `promise`, damage is red where it was promised away, else amber.

    The auditor's are red words where it has none: Grafana draws what is missing in the colour of 0.
    """
    panel = _described(stat.Panel(), title, reading, queries).unit(unit).decimals(decimals)
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.text_mode(common.BigValueTextMode.AUTO).reduce_options(_last())
    mappings: list[dashboard.ValueMapping] = [_words(words)] if words else []
    if _audited(queries):
        mappings.append(_nothing(NO_AUDIT, BROKEN))
    if mappings:
        panel.mappings(mappings)
    if promise is None:
        return panel.thresholds(_thresholds(bounds or ((None, NEUTRAL),)))
    panel.thresholds(_thresholds(((None, GOOD), (1.0, EXPECTED))))
    for series in promised_series(promise):
        steps = {"mode": "absolute", "steps": [{"value": None, "color": GOOD}, {"value": 1, "color": BROKEN}]}
        panel.override_by_regexp(series, [_property("thresholds", steps)])
    return panel


def bars(title: str, reading: Reading, queries: Queries, unit: str) -> Panel:
    """One bar a series."""
    panel = _described(bargauge.Panel(), title, reading, queries).unit(unit).min(0).reduce_options(_last())
    panel.orientation(common.VizOrientation.HORIZONTAL).display_mode(common.BarGaugeDisplayMode.BASIC)
    panel.thresholds(_thresholds(((None, NEUTRAL),)))
    return _coloured_by_arm(panel)


def rows(
    title: str, reading: Reading, queries: Queries, columns: Mapping[str, str], *, by: str = "",
    units: Mapping[str, str] | None = None, bad: Sequence[str] = (), links: Mapping[str, tuple[str, str]] | None = None,
) -> Panel:  # fmt: skip
    """A table, sorted `by` a field. `columns` maps a field to its heading, in the order of the columns; fields without
    one are hidden. What is null is empty.

    `units`: of headings that are no plain numbers. In the columns `bad` everything but 0 is red; `links`: heading to
    (title, address with `${__value.text}`).
    """
    panel = _described(table.Panel(), title, reading, queries, "nothing").unit("short")
    panel.override_by_regexp("/.*/", [_property("noValue", "")])
    if len(queries) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    if by:
        sort = {"sort": [{"field": by}]}
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="sortBy", options=sort))
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {field: number for number, field in enumerate(columns)},
        "renameByName": dict(columns),
    }
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=organize))
    for heading, unit in (units or {}).items():
        panel.override_by_name(heading, [_property("unit", unit)])
    for heading in bad:
        steps = {"mode": "absolute", "steps": [{"value": None, "color": "text"}, {"value": 1, "color": BROKEN}]}
        coloured = _property("custom.cellOptions", {"type": "color-text"})
        panel.override_by_name(heading, [_property("thresholds", steps), coloured])
    for heading, (said, url) in (links or {}).items():
        panel.override_by_name(heading, [_property("links", [{"title": said, "url": url}])])
    return panel


def states(title: str, reading: Reading, queries: Queries, words: Mapping[str, tuple[str, str]]) -> Panel:
    """A band a series, coloured by state. `words` maps a value to what it is called and its colour."""
    panel = _described(statetimeline.Panel(), title, reading, queries)
    mapped = {v: dashboard.ValueMappingResult(text=t, color=c) for v, (t, c) in words.items()}
    panel.mappings([dashboard.ValueMap(options=mapped)]).row_height(0.8).merge_values(True)
    panel.show_value(common.VisibilityMode.NEVER).legend(build.VizLegendOptions().show_legend(False))
    return panel


def prose(title: str, markdown: str) -> Panel:
    """Text, in Markdown."""
    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(markdown)


def _described(panel: Panel, title: str, reading: Reading, queries: Queries, nothing: str = "0") -> Panel:
    panel.title(title).description(str(reading)).targets(list(queries))
    panel.no_value(NO_AUDIT if _audited(queries) else nothing)
    links = [_runbook(name) for name in reading.runbooks]
    return panel.links(links) if links else panel


def _audited(queries: Queries) -> bool:
    """Whether these are the auditor's numbers."""
    return any("delivery_audit_" in getattr(query.build(), "expr", "") for query in queries)


def _runbook(name: str) -> board.DashboardLink:
    url = f"${{console}}/runbooks/{name}"
    return board.DashboardLink(f"Runbook {name}").type(dashboard.DashboardLinkType.LINK).url(url)


def _coloured_by_arm(panel: Panel) -> Panel:
    for arm, colour in ARM_COLOURS.items():
        panel.override_by_regexp(_series_of(arm), [_property("color", {"mode": "fixed", "fixedColor": colour})])
    return panel


def _series_of(arm: str) -> str:
    """Legends begin with the arm's name."""
    return f"/^{arm}( |$)/"


def _property(name: str, value: object) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val=name, value=value)


def _legend() -> build.VizLegendOptions:
    return (
        build.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
    )


def _last() -> build.ReduceDataOptions:
    return build.ReduceDataOptions().calcs(["lastNotNull"])


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> board.ThresholdsConfig:
    marks = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return board.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(marks)


def _words(words: Mapping[str, str]) -> dashboard.ValueMap:
    return dashboard.ValueMap(options={value: dashboard.ValueMappingResult(text=said) for value, said in words.items()})


def _nothing(said: str, colour: str) -> dashboard.SpecialValueMap:
    shown = dashboard.ValueMappingResult(text=said, color=colour)
    match = dashboard.SpecialValueMatch.NULL_AND_NAN
    return dashboard.SpecialValueMap(options=dashboard.DashboardSpecialValueMapOptions(match=match, result=shown))
