"""A board from rows of panels: places, ids, variables, links. The same for every board."""

import json
from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from dashboards.panels import Panel
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS

WIDTH: Final = 24
TAG: Final = "delivery-lab"
CONSOLE: Final = "http://127.0.0.1:21030"  # where runbooks are; pushed elsewhere, a board is told another address
Row = tuple[int, Sequence[tuple[int, Panel]]]  # height, and (width, panel) from left to right

# Fault windows, as the annotator posts them; the console draws them from the log of faults itself.
_FAULTS: Final = {
    "name": "Faults",
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "iconColor": "#FF9830",
    "target": {"type": "tags", "tags": [TAG, "fault"], "limit": 500, "matchAny": False},
}
# What the console and Grafana need no word about, though the SDK writes it.
_NOISE: Final = ("fiscalYearStartMonth", "allowCustomValue", "auto", "auto_count", "auto_min", "skipUrlSync")


def board(uid: str, title: str, description: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The board as Grafana stores it. Panels are numbered by place, so that links to them stay right."""
    made = build.Dashboard(title).uid(uid).description(description).tags([TAG]).timezone("browser")
    made.time("now-15m", "now").refresh("2s").readonly().tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made.with_variable(_arms("arm", "consumer arm", list(CONSUMER_ARMS)))
    made.with_variable(_arms("publisher", "publisher arm", list(PUBLISHER_ARMS)))
    made.with_variable(build.ConstantVariable("console").value(CONSOLE))
    made.link(_between_boards())
    y = 0
    for number, (height, panels) in enumerate(rows):
        x = 0
        for place, (width, panel) in enumerate(panels):
            made.with_panel(panel.id(100 * number + place + 1).grid_pos(dashboard.GridPos(x=x, y=y, w=width, h=height)))
            x += width
        if x != WIDTH:
            raise ValueError(f"{title}: row {number} is {x} wide, not {WIDTH}")
        y += height
    document: dict[str, Any] = _quiet(json.loads(JSONEncoder().encode(made.build())))
    document["annotations"] = {"list": [_FAULTS]}
    for holder in (document, *document["panels"]):
        for link in holder.get("links", ()):
            del link["placement"]  # the SDK moves it into a menu that few find
    return document


def _arms(name: str, label: str, arms: list[str]) -> build.CustomVariable:
    everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
    variable = build.CustomVariable(name).label(label).values(",".join(arms)).multi(True).include_all(True)
    return variable.all_value(".*").current(everything)


def _between_boards() -> build.DashboardLink:
    link = build.DashboardLink("Boards").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.keep_time(True).include_vars(True)


def _quiet(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quiet(inner) for key, inner in value.items() if key not in _NOISE}
    return [_quiet(inner) for inner in value] if isinstance(value, list) else value
