"""The console's pages and the JSON behind them. It asks only what the committed boards ask."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from services.console import frames
from services.console.ask import View, expression, words
from services.console.boards import Board, Panel, Table, Target, Text, load
from services.console.received import Received, newest_first
from services.console.runs import runs
from services.console.sources import Evidence, NoAnswer, Prometheus
from services.stack.nemesis import Fault, NemesisReader

ASSETS: Final = Path(__file__).parent / "assets"
RUNBOOKS: Final = Path(__file__).parents[2] / "dashboards" / "runbooks"
LONGEST_RANGE_S: Final = 7 * 86_400
BODY_BYTES: Final = 1_000_000
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")


class Console:
    """The handlers, and what they read."""

    def __init__(
        self, prometheus: Prometheus, evidence: Evidence, home: Path, received: Received, zipkin_port: int
    ) -> None:  # fmt: skip
        self._prometheus = prometheus
        self._evidence = evidence
        self._home = home
        self._received = received
        self._zipkin_port = zipkin_port
        self._boards = load()
        self._nemesis = NemesisReader(home / "run" / "nemesis.jsonl")

    def routes(self) -> list[Route]:
        return [
            Route("/", self.start),
            Route("/d/{uid}", self.page),
            Route("/received", self.page),
            Route("/runbooks/{name}", self.runbook),
            Route("/traces/{trace_id}", self.trace),
            Route("/assets/{name}", self.asset),
            Route("/api/boards", self.listing),
            Route("/api/boards/{uid}", self.definition),
            Route("/api/boards/{uid}/data", self.data),
            Route("/api/runs", self.runs),
            Route("/api/received", self.pages_received),
            Route("/api/alerts", self.take_alerts, methods=["POST"]),
        ]

    async def start(self, _: Request) -> Response:
        return RedirectResponse(f"/d/{next(iter(self._boards))}")

    async def page(self, _: Request) -> Response:
        return FileResponse(ASSETS / "page.html", headers=HEADERS)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {file.name for file in ASSETS.iterdir()}:
            return PlainTextResponse("there is no such file\n", 404)
        return FileResponse(ASSETS / name, headers=HEADERS)

    async def runbook(self, request: Request) -> Response:
        """A runbook, or the list of them."""
        known = {file.stem: file for file in sorted(RUNBOOKS.glob("*.md"))}
        name = request.path_params["name"]
        if name not in known:
            return PlainTextResponse(f"there is no runbook {name!r}; there are: {', '.join(known)}\n", 404)
        template = (ASSETS / "runbook.html").read_text()
        body = _MARKDOWN.render(known[name].read_text())
        return HTMLResponse(template.replace("{{title}}", name).replace("{{body}}", body), headers=HEADERS)

    async def trace(self, request: Request) -> Response:
        """The trace store's page of a trace, on the host by which this page was reached."""
        trace_id = request.path_params["trace_id"]
        if not re.fullmatch("[0-9a-f]{16,32}", trace_id):
            return PlainTextResponse("a trace id is 16 to 32 hexadecimal digits\n", 404)
        return RedirectResponse(f"http://{request.url.hostname}:{self._zipkin_port}/zipkin/traces/{trace_id}")

    async def listing(self, _: Request) -> Response:
        return _json([{"uid": board.uid, "title": board.title} for board, _ in self._boards.values()])

    async def definition(self, request: Request) -> Response:
        """The board as it was generated; the Markdown of its text panels as HTML besides."""
        if (found := self._boards.get(request.path_params["uid"])) is None:
            return PlainTextResponse("there is no such board\n", 404)
        board, text = found
        html = {str(p.id): _MARKDOWN.render(p.options.content) for p in board.panels if isinstance(p, Text)}
        return _json({"board": msgspec.Raw(text), "html": html})

    async def data(self, request: Request) -> Response:
        """What every panel shows for a range (`from`, `to`: Unix seconds) and the chosen values (`var-…`)."""
        if (found := self._boards.get(request.path_params["uid"])) is None:
            return PlainTextResponse("there is no such board\n", 404)
        board, _ = found
        try:
            view = _view(request, board)
            values = words(board, view)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        asking = [panel for panel in board.panels if panel.targets]
        answers = await asyncio.gather(*(self._panel(panel, view, values) for panel in asking))
        shown = {str(panel.id): answer for panel, answer in zip(asking, answers, strict=True)}
        faults = [_window(fault) for fault in self._faults() if _overlaps(fault, view)]
        return _json({"panels": shown, "faults": faults, "from": view.from_s, "to": view.to_s})

    async def _panel(self, panel: Panel, view: View, values: dict[str, str]) -> dict[str, Any]:
        try:
            if isinstance(panel, Table):
                return {"table": await self._table(panel, view, values)}
            answers = await asyncio.gather(*(self._series(target, view, values) for target in panel.targets))
        except NoAnswer as error:
            return {"error": str(error)}
        return {"series": [one for answer in answers for one in answer]}

    async def _series(self, target: Target, view: View, values: dict[str, str]) -> Sequence[msgspec.Struct]:
        expr = expression(target, values, view)
        if target.instant:
            return frames.numbers(target, await self._prometheus.at(expr, view.to_s))
        start, end = view.aligned
        return frames.lines(target, await self._prometheus.over_time(expr, start, end, view.step_s), view.step_s)

    async def _table(self, panel: Table, view: View, values: dict[str, str]) -> frames.Rows:
        first = panel.targets[0]
        if first.raw_sql:
            return frames.organized(panel, await self._evidence.rows(expression(first, values, view)))
        exprs = [expression(target, values, view) for target in panel.targets]
        answers = await asyncio.gather(*(self._prometheus.at(expr, view.to_s) for expr in exprs))
        return frames.table(panel, list(zip(panel.targets, answers, strict=True)))

    async def runs(self, _: Request) -> Response:
        return _json(runs(self._home / "runs"))

    async def pages_received(self, _: Request) -> Response:
        return _json(newest_first(self._received.pages, self._faults()))

    async def take_alerts(self, request: Request) -> Response:
        """Alertmanager's webhook. A page elsewhere in the browser cannot post JSON here without being asked first."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("say application/json\n", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES:
                return PlainTextResponse("too large\n", 413)
        try:
            return _json({"received": self._received.take(body)})
        except msgspec.DecodeError as error:
            return PlainTextResponse(f"no notification of Alertmanager: {error}\n", 400)

    def _faults(self) -> list[Fault]:
        self._nemesis.new()
        return list(self._nemesis.faults.values())


def make_app(console: Console, waits_for: str = "") -> Starlette:
    """The application."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[*console.routes(), Route("/healthz", healthz)])


def _view(request: Request, board: Board) -> View:
    asked = request.query_params
    try:
        from_s, to_s = float(asked["from"]), float(asked["to"])
    except (KeyError, ValueError):
        raise ValueError("say from and to, in Unix seconds") from None
    if not 0 < to_s - from_s <= LONGEST_RANGE_S:
        raise ValueError("a range ends after it begins, within a week")
    return View(from_s, to_s, {v.name: asked.getlist(f"var-{v.name}") for v in board.variables})


def _overlaps(fault: Fault, view: View) -> bool:
    return fault.started <= view.to_s and (fault.ended is None or fault.ended >= view.from_s)


def _window(fault: Fault) -> dict[str, Any]:
    return {
        "fault": fault.fault, "target": fault.target, "from": fault.started, "to": fault.ended, "by": fault.by,
        "failpoint": fault.details.get("failpoint", ""),
    }  # fmt: skip


def _json(document: Any) -> Response:
    return Response(msgspec.json.encode(document, enc_hook=str), media_type="application/json", headers=HEADERS)
