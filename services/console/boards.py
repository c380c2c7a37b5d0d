"""What the console draws of a Grafana board, as a closed set of types: any other panel kind or option is refused.

The generated JSON is the definition for Grafana and the console alike; what is not here fails a test, it is no blank.
"""

from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

GENERATED: Final = Path(__file__).parents[2] / "dashboards" / "generated"
Empty = Literal[""]
Unit = Literal["", "short", "cps", "s", "bytes", "percentunit", "dateTimeFromNow"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A part of a board; its fields are all that it may have."""


Custom = TypeVar("Custom")
Options = TypeVar("Options")


class Source(Part, frozen=True):
    type: Literal["prometheus", "grafana-postgresql-datasource"]
    uid: Literal["prometheus", "auditor"]


class Target(Part, frozen=True):
    """One query: `expr` for Prometheus, `raw_sql` for Postgres."""

    ref_id: str
    datasource: Source
    expr: str = ""
    legend_format: str = ""
    instant: bool = False
    range: bool = False
    format: Literal["", "table"] = ""
    raw_sql: str = ""
    raw_query: bool = False
    editor_mode: Literal["code"] = "code"
    exemplar: bool = False  # Grafana's: the native Prometheus has none


class Place(Part, frozen=True):
    x: int
    y: int
    w: int
    h: int


# --- how values look


class Step(Part, frozen=True):
    value: float | None
    color: str


class Thresholds(Part, frozen=True):
    mode: Literal["absolute"]
    steps: list[Step]


class Shown(Part, frozen=True):
    text: str
    color: str = ""


class ValueMapping(Part, frozen=True, tag_field="type", tag="value"):
    options: dict[str, Shown]


class Nothing(Part, frozen=True):
    match: Literal["null+nan"]
    result: Shown


class SpecialMapping(Part, frozen=True, tag_field="type", tag="special"):
    """How a value looks that is not there."""

    options: Nothing


class Colour(Part, frozen=True):
    mode: Literal["fixed"]
    fixed_color: str


class Cell(Part, frozen=True):
    type: Literal["color-text"]


class ColourProperty(Part, frozen=True, tag_field="id", tag="color"):
    value: Colour


class ThresholdsProperty(Part, frozen=True, tag_field="id", tag="thresholds"):
    value: Thresholds


class CellProperty(Part, frozen=True, tag_field="id", tag="custom.cellOptions"):
    value: Cell


class DataLink(Part, frozen=True):
    title: str
    url: str  # `${__value.text}` is the cell


class LinksProperty(Part, frozen=True, tag_field="id", tag="links"):
    value: list[DataLink]


class UnitProperty(Part, frozen=True, tag_field="id", tag="unit"):
    value: Unit


class NoValueProperty(Part, frozen=True, tag_field="id", tag="noValue"):
    value: Empty


class LineStyle(Part, frozen=True):
    fill: Literal["dash"]
    dash: list[int]


class LineStyleProperty(Part, frozen=True, tag_field="id", tag="custom.lineStyle"):
    value: LineStyle


Property = (
    ColourProperty
    | ThresholdsProperty
    | CellProperty
    | LinksProperty
    | UnitProperty
    | NoValueProperty
    | LineStyleProperty
)


class Matcher(Part, frozen=True):
    id: Literal["byRegexp", "byName"]
    options: str


class Override(Part, frozen=True):
    matcher: Matcher
    properties: list[Property]


class Defaults(Part, Generic[Custom], frozen=True):
    unit: Unit = ""
    decimals: int | None = None
    min: float | None = None
    no_value: str = ""
    mappings: list[ValueMapping | SpecialMapping] = []
    thresholds: Thresholds | None = None
    custom: Custom | None = None


class FieldConfig(Part, Generic[Custom], frozen=True):
    defaults: Defaults[Custom]
    overrides: list[Override]


class Legend(Part, frozen=True):
    calcs: tuple[()]
    display_mode: Literal["list"]
    placement: Literal["bottom"]
    show_legend: bool


class Reduce(Part, frozen=True):
    calcs: tuple[Literal["lastNotNull"]]


class Tooltip(Part, frozen=True):
    mode: Literal["multi", "single"]
    sort: Literal["desc", "asc"]


# --- the kinds of panels


class ThresholdsStyle(Part, frozen=True):
    mode: Literal["dashed"]


class Stacking(Part, frozen=True):
    mode: Literal["normal"]
    group: Literal["A"]


class LineCustom(Part, frozen=True):
    line_width: Literal[2]
    fill_opacity: int
    show_points: Literal["never"]
    line_interpolation: Literal["linear", "stepAfter"]
    stacking: Stacking | None = None
    thresholds_style: ThresholdsStyle | None = None


class LineOptions(Part, frozen=True):
    legend: Legend
    tooltip: Tooltip


class StatOptions(Part, frozen=True):
    color_mode: Literal["value"]
    graph_mode: Literal["none"]
    justify_mode: Literal["auto"]
    orientation: Literal["auto"]
    percent_change_color_mode: Literal["standard"]
    reduce_options: Reduce
    show_percent_change: Literal[False]
    text_mode: Literal["auto"]  # the name only where there are several
    wide_layout: Literal[True]


class BarOptions(Part, frozen=True):
    display_mode: Literal["basic"]
    legend: Legend
    max_viz_height: Literal[300]
    min_viz_height: Literal[16]
    min_viz_width: Literal[8]
    name_placement: Literal["auto"]
    orientation: Literal["horizontal"]
    reduce_options: Reduce
    show_unfilled: Literal[True]
    sizing: Literal["auto"]
    value_mode: Literal["color"]


class TableCustom(Part, frozen=True):
    align: Literal["auto"]
    inspect: Literal[False]


class Footer(Part, frozen=True):
    count_rows: Literal[False]
    reducer: tuple[()]
    show: Literal[False]


class TableOptions(Part, frozen=True):
    cell_height: Literal["sm"]
    footer: Footer
    frame_index: Literal[0]
    show_header: Literal[True]
    show_type_icons: Literal[False]


class StateCustom(Part, frozen=True):
    fill_opacity: Literal[70]
    line_width: Literal[0]


class StateOptions(Part, frozen=True):
    align_value: Literal["left"]
    legend: Legend
    merge_values: Literal[True]
    per_page: int
    row_height: float
    show_value: Literal["never"]
    tooltip: Tooltip


class TextOptions(Part, frozen=True):
    content: str
    mode: Literal["markdown"]


class NoOptions(Part, frozen=True):
    pass


class Organize(Part, frozen=True):
    exclude_by_name: dict[str, bool]
    index_by_name: dict[str, int]
    rename_by_name: dict[str, str]


class MergeTransformation(Part, frozen=True, tag_field="id", tag="merge"):
    options: NoOptions


class SortField(Part, frozen=True):
    field: str


class SortBy(Part, frozen=True):
    sort: tuple[SortField]


class SortByTransformation(Part, frozen=True, tag_field="id", tag="sortBy"):
    options: SortBy


class OrganizeTransformation(Part, frozen=True, tag_field="id", tag="organize"):
    options: Organize


class PanelLink(Part, frozen=True):
    """A link of a panel, to a runbook."""

    title: str
    url: str
    type: Literal["link"]
    icon: Empty
    tooltip: Empty
    tags: tuple[()]
    as_dropdown: Literal[False]
    include_vars: Literal[False]
    keep_time: Literal[False]
    target_blank: Literal[False]


class _Panel(Part, frozen=True, tag_field="type"):
    id: int
    title: str
    grid_pos: Place
    repeat_direction: Literal["h"]
    transparent: Literal[False]
    description: str = ""
    links: list[PanelLink] = []
    targets: list[Target] = []


class TimeSeries(_Panel, frozen=True, tag="timeseries", kw_only=True):
    options: LineOptions
    field_config: FieldConfig[LineCustom]


class Stat(_Panel, frozen=True, tag="stat", kw_only=True):
    options: StatOptions
    field_config: FieldConfig[NoOptions]


class BarGauge(_Panel, frozen=True, tag="bargauge", kw_only=True):
    options: BarOptions
    field_config: FieldConfig[NoOptions]


class Table(_Panel, frozen=True, tag="table", kw_only=True):
    options: TableOptions
    field_config: FieldConfig[TableCustom]
    transformations: list[MergeTransformation | SortByTransformation | OrganizeTransformation]


class StateTimeline(_Panel, frozen=True, tag="state-timeline", kw_only=True):
    options: StateOptions
    field_config: FieldConfig[StateCustom]


class Text(_Panel, frozen=True, tag="text", kw_only=True):
    options: TextOptions


Panel = TimeSeries | Stat | BarGauge | Table | StateTimeline | Text

# --- the board


class Variable(Part, frozen=True):
    """`custom`: names with commas in `query`, of which any may be chosen. `constant`: `query` is its value."""

    name: str
    type: Literal["custom", "constant"]
    query: str
    multi: bool
    include_all: bool
    label: str = ""
    all_value: str = ""
    hide: int = 0
    current: dict[str, Any] = {}

    @property
    def values(self) -> list[str]:
        """What may be chosen."""
        return self.query.split(",")


class Range(Part, frozen=True):
    from_: str = msgspec.field(name="from")
    to: str


class Board(Part, frozen=True):
    """A board. Annotations and links to the other boards are the same on all: the console draws its own."""

    uid: str
    title: str
    description: str
    tags: tuple[Literal["delivery-lab"]]
    timezone: Literal["browser"]
    time: Range
    refresh: str
    editable: Literal[False]
    graph_tooltip: Literal[1]
    schema_version: int
    templating: dict[Literal["list"], list[Variable]]
    annotations: dict[str, Any]
    links: list[dict[str, Any]]
    panels: list[Panel]

    @property
    def variables(self) -> list[Variable]:
        return self.templating["list"]


def load(folder: Path = GENERATED) -> dict[str, tuple[Board, bytes]]:
    """Every board by uid, and the JSON of which it was read.

    Raises msgspec.ValidationError where one has what the console cannot draw; the message says where.
    """
    found = {}
    for file in sorted(folder.glob("lab-*.json")):
        text = file.read_bytes()
        board = msgspec.json.decode(text, type=Board)
        found[board.uid] = board, text
    return dict(sorted(found.items(), key=lambda item: item[1][0].title))
