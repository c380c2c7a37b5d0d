"""The report of a run: one HTML file that needs no network and prints well, and the same as Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final

from loadtest.charts import legend, svg
from loadtest.kept import KeptFault, Played, Row
from loadtest.lessons import lessons
from loadtest.timeline import Timeline
from services.domain.audit import LISTED, Evidence

HTML_FILE: Final = "report.html"
MARKDOWN_FILE: Final = "report.md"
MOST_EVIDENCE: Final = 200
_COUNTS: Final = (
    "expected", "applied_once", "duplicated", "lost", "unexpected", "waiting", "dead_lettered", "discarded",
    "uncertain", "unexplained",
)  # fmt: skip
_PROMISE_WORDS: Final = {"no_loss": "no loss", "no_duplicate": "no duplicate"}
_LAW: Final = (
    "For every hop, arm and effect: expected = applied once + duplicated + waiting + dead-lettered + discarded + "
    "uncertain + lost. Each term has its own query; what is left over is unexplained, and then the law does not close."
)
_STYLE: Final = """
:root { --ink: #1f2933; --quiet: #5f6b7a; --line: #d5dbe3; --pass: #2b7a3d; --fail: #c4162a; --maybe: #9a6200 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.9rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h3 { font-size: .95rem; margin: 1.1rem 0 0 }
.PASS { color: var(--pass) } .FAIL, .broken { color: var(--fail) } .INCONCLUSIVE, .expected { color: var(--maybe) }
.kept { color: var(--pass) } .quiet, small { color: var(--quiet) }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .28rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--quiet) } .n { text-align: right }
.scroll { overflow-x: auto } code { font: .86em ui-monospace, monospace; overflow-wrap: anywhere }
.zero { color: #a5afbb } .promised { font-weight: 700 } ul { padding-left: 1.2rem } li { margin: .25rem 0 }
.chart { width: 100%; height: auto; display: block } .chart text { font: 10px system-ui, sans-serif; fill: #5f6b7a }
.chart .value { text-anchor: end } .chart .time { text-anchor: middle }
.chart .number { fill: #c4162a; text-anchor: middle }
.window { fill: #c4162a; opacity: .1 } .legend { margin: .1rem 0 0; font-size: .84rem }
.legend span { margin-right: 1.2rem; white-space: nowrap }
@media print { body { max-width: none; font-size: 11px; padding: 0 } h2 { break-after: avoid }
  tr, .picture { break-inside: avoid } .scroll { overflow: visible } table { font-size: 9.5px } }
"""


def html(played: Played, timeline: Timeline) -> str:
    """The whole report."""
    title = f"{played.verdict}: {played.scenario}, seed {played.seed}"
    sections = [
        _head(played), _verdicts(played), _pictures(played, timeline), _faults(played), _alerts(played),
        _latencies(timeline),
        _evidence(played), _repeat(played),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _head(played: Played) -> str:
    told = "".join(f'<li class="{lesson.kind}">{escape(lesson.text)}</li>' for lesson in lessons(played))
    reasons = "".join(f'<li class="INCONCLUSIVE">{escape(reason)}</li>' for reason in played.reasons)
    return (
        f'<h1><span class="{played.verdict}">{played.verdict}</span> {escape(played.scenario)}</h1>'
        f'<p class="quiet">{escape(played.teaches)}</p><p>{escape(_summary(played))}</p>'
        f"<ul>{reasons}{told}</ul>"
    )


def _summary(played: Played) -> str:
    load = played.load
    kills = sum(fault.fault == "kill" for fault in played.faults)
    closes = "The law of conservation closes." if played.closes else "The law of conservation does NOT close."
    return (
        f"Run {played.run}, {_when(played.began)}. {load.acknowledged:,} of {load.sent:,} requests acknowledged, "
        f"{kills} kills. {closes}"
    )


def _verdicts(played: Played) -> str:
    shown = [count for count in _COUNTS if count in _COUNTS[:4] or any(getattr(row, count) for row in played.rows)]
    heads = ["hop", "arm", "effect", *(count.replace("_", " ") for count in shown), "verdict"]
    body = "".join(_row(row, shown) for row in played.rows)
    tested = _table(
        ["promise", "verdict", "what put it to the test", "why"],
        ([escape(f"{row.name}: {_promised(row)}"), _mark(row), escape(row.exercised), escape(row.why)]
         for row in played.rows if row.promise),
    )  # fmt: skip
    must = _table(
        ["what had to come out broken", "messages"],
        ([escape(control), f"{many:,}"] for control, many in played.controls.items()),
    )
    return (
        "<h2>What was found</h2>"
        f'<div class="scroll"><table><tr>{"".join(_head_cell(head, shown) for head in heads)}</tr>{body}</table></div>'
        f'<p class="quiet">{escape(_LAW)} Counts in bold are promised to be 0.</p>'
        f"<h2>What was promised, and what put it to the test</h2>{tested}{must if played.controls else ''}"
    )


def _head_cell(head: str, counts: Sequence[str]) -> str:
    number = head.replace(" ", "_") in counts
    return f"<th{' class=n' if number else ''}>{escape(head)}</th>"


def _row(row: Row, counts: Iterable[str]) -> str:
    cells = [f"<td>{escape(text)}</td>" for text in (row.hop, row.arm, row.effect)]
    cells += [_count(row, count) for count in counts]
    return f"<tr>{''.join(cells)}<td>{_mark(row)}</td></tr>"


_PROMISED_COUNT: Final = {"lost": "no_loss", "duplicated": "no_duplicate"}


def _count(row: Row, name: str) -> str:
    value = getattr(row, name)
    classes = ["n"]
    if _PROMISED_COUNT.get(name) in row.promise:
        classes += ["promised", "FAIL" if value else "PASS"]
    elif not value:
        classes.append("zero")
    elif name not in ("expected", "applied_once"):
        classes.append("expected")
    return f'<td class="{" ".join(classes)}">{value:,}</td>'


def _promised(row: Row) -> str:
    return ", ".join(_PROMISE_WORDS[promise] for promise in row.promise)


def _mark(row: Row) -> str:
    return f'<b class="{row.verdict}">{row.verdict}</b>' if row.verdict else '<span class="zero">none</span>'


def _pictures(played: Played, timeline: Timeline) -> str:
    faults = _windows(played)
    if timeline.left_out:
        return f"<h2>Over time</h2><p>{escape(timeline.left_out)}</p>"
    drawn = [
        f'<div class="picture"><h3>{escape(chart.title)} <small>{escape(chart.unit)}</small></h3>'
        f"{svg(chart, timeline, faults)}{legend(chart)}</div>"
        for chart in timeline.charts
        if not all(series.empty for series in chart.series)
    ]
    silent = [c.title.lower() for c in timeline.charts if all(series.empty for series in c.series)]
    nothing = f'<p class="quiet">Nothing to draw: {escape("; ".join(silent))}.</p>' if silent else ""
    return (
        '<h2>Over time</h2><p class="quiet">Seconds since the begin. Numbers name the faults of the table below; '
        f"a shaded window lasts until the process is ready again.</p>{''.join(drawn)}{nothing}"
    )


def _windows(played: Played) -> list[KeptFault]:
    """The faults that are drawn: what armed a kill is not one, the kill is."""
    return [f for f in played.faults if f.fault != "arm" or not str(f.details.get("action", "")).startswith("kill")]


def _faults(played: Played) -> str:
    rows = (
        [str(number), escape(_did(fault)), escape(fault.target), f"{fault.started - played.began:.1f} s",
         _lasted(fault), escape(_details(fault))]
        for number, fault in enumerate(_windows(played), 1)
    )  # fmt: skip
    table = _table(["", "fault", "target", "began at", "lasted", ""], rows)
    return f"<h2>Faults</h2>{table if _windows(played) else '<p>None.</p>'}"


def _did(fault: KeptFault) -> str:
    if fault.name == fault.fault:
        return fault.fault
    return f"{fault.fault} at {fault.name}" if fault.by == "failpoint" else f"{fault.fault}: {fault.name}"


def _lasted(fault: KeptFault) -> str:
    return "to the end" if fault.ended is None else f"{fault.ended - fault.started:.1f} s"


def _details(fault: KeptFault) -> str:
    words = {"action": "{}", "acted": "acted {} times", "count": "{} records"}
    return ", ".join(text.format(fault.details[name]) for name, text in words.items() if name in fault.details)


def _alerts(played: Played) -> str:
    if not played.alerts:
        return ""
    rows = (
        [escape(one.name), escape(one.arm), f"{one.at - played.began:.0f} s", escape(one.fault or ""),
         "" if one.delay_s is None else f"{one.delay_s:.1f} s"]
        for one in played.alerts
    )  # fmt: skip
    wrong = "".join(f'<li class="expected">{escape(text)}</li>' for text in played.alerts_wrong)
    table = _table(["alert", "arm", "fired at", "last fault before", "after"], rows)
    return f"<h2>Alerts</h2>{table}<ul>{wrong}</ul>"


def _latencies(timeline: Timeline) -> str:
    rows = (
        [escape(one.name), f"{one.count:,}", *(f"{value:,.3g}" for value in (one.p50, one.p95, one.p99))]
        for one in timeline.latencies
    )
    heads = ["", "times", "p50 ms", "p95 ms", "p99 ms"]
    return f"<h2>Latency</h2>{_table(heads, rows, numbers=heads[1:])}" if timeline.latencies else ""


def _listed(played: Played) -> list[Evidence]:
    """Losses and what is unexplained first."""
    return sorted(played.audit.evidence, key=lambda item: LISTED.index(item.state))


def _evidence(played: Played) -> str:
    found = _listed(played)
    rows = (
        [escape(item.state), escape(f"{item.arm} {item.effect}"), f"<code>{escape(_name(item))}</code>",
         str(item.applications), f"<code>{escape(' '.join(item.at[:3]))}</code>", escape(_why(item))]
        for item in found[:MOST_EVIDENCE]
    )  # fmt: skip
    table = _table(["state", "arm, effect", "message", "applied", "at", "what is known"], rows)
    more = max(0, len(found) - MOST_EVIDENCE) + sum(played.audit.evidence_left_out.values())
    rest = f"<p>{more:,} more: <code>lab audit --run {escape(played.run)} --json</code></p>" if more > 0 else ""
    return f"<h2>Evidence</h2>{f'<div class=scroll>{table}</div>' if found else '<p>Nothing to list.</p>'}{rest}"


def _name(item: Evidence) -> str:
    return item.message_id or item.key or "no message id"


def _why(item: Evidence) -> str:
    """The line that explains it, or what there is."""
    known = [getattr(item, field, None) for field in ("why", "reason", "last_seen")]
    first = next((str(text) for text in known if text), "")
    return f"{first} (trace {item.trace_id})" if item.trace_id else first


def _repeat(played: Played) -> str:
    settings = " ".join(f"{name}={value}" for name, value in played.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in played.versions.items())
    return (
        f"<h2>How to repeat it</h2><p><code>lab run {escape(played.scenario)} --seed {played.seed}</code>: the same "
        "requests, keys and faults at the same times; what the machine makes of them differs.</p>"
        f"<p class=quiet>{escape(f'Settings: {settings}. ' if settings else '')}Versions: {escape(versions)}.</p>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> str:
    """A table of cells that are HTML already."""
    classes = [' class="n"' if head in numbers else "" for head in heads]
    head = "".join(f"<th{css}>{escape(text)}</th>" for text, css in zip(heads, classes, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{css}>{cell}</td>' for cell, css in zip(row, classes, strict=True))}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def markdown(played: Played, timeline: Timeline) -> str:
    """The report for a pull request, without the pictures."""
    return "\n".join(_markdown(played, timeline)) + "\n"


def _markdown(played: Played, timeline: Timeline) -> Iterator[str]:
    yield f"## {played.verdict}: {played.scenario}, seed {played.seed}\n"
    yield f"{played.teaches}\n\n{_summary(played)}\n"
    yield from (f"- {text}" for text in [*played.reasons, *(lesson.text for lesson in lessons(played))])
    yield ""
    counts = [count for count in _COUNTS if count in _COUNTS[:4] or any(getattr(row, count) for row in played.rows)]
    heads = ["hop", "arm", "effect", *(count.replace("_", " ") for count in counts), "promised", "verdict"]
    rows: list[list[Any]] = [
        [row.hop, row.arm, row.effect, *(getattr(row, count) for count in counts), _promised(row), row.verdict or ""]
        for row in played.rows
    ]
    yield from _markdown_table(heads, rows)
    yield "\n<details><summary>What put the promises to the test</summary>\n"
    yield from _markdown_table(
        ["promise", "verdict", "what put it to the test", "why"],
        [[f"{row.name}: {_promised(row)}", row.verdict, row.exercised, row.why] for row in played.rows if row.promise],
    )
    yield "\n</details>\n"
    if timeline.latencies:
        yield from _markdown_table(
            ["latency", "times", "p50 ms", "p95 ms", "p99 ms"],
            [[one.name, one.count, one.p50, one.p95, one.p99] for one in timeline.latencies],
        )
    yield f"\nRepeat: `lab run {played.scenario} --seed {played.seed}`"


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def write(home: Path, played: Played, timeline: Timeline) -> Path:
    """Both files, beside the verdict; returns the HTML one."""
    folder = home / "runs" / played.run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_FILE).write_text(markdown(played, timeline))
    (folder / HTML_FILE).write_text(html(played, timeline))
    return folder / HTML_FILE
