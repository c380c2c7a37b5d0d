"""The HTTP face of a producer."""

import re
import time
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.accept.arms import Arm
from services.accept.intents import Reader
from services.accept.store import Answer, Intents, Outcome
from services.accept.telling import Telling
from services.bootstrap import Process
from services.domain.messages import Kind
from services.failpoints import InjectedError
from services.http.bodies import read_body
from services.http.keys import HEADER, REPLAYED
from services.http.problem import Problem, unavailable

_JSON: Final = "application/json"
_BUSINESS_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
DECISIONS: Final[Mapping[Outcome, str]] = {
    "created": "first",
    "replayed": "duplicate",
    "mismatch": "conflict",
    "taken": "conflict",
}  # in_progress decides nothing yet


def make_routes(kind: Kind, process: Process, intents: Intents, arm: Arm, name: str) -> list[Route]:
    """`POST /orders` and `GET /orders/{id}`, or the same of refunds, as the publisher arm `name` does it."""
    reader = Reader(kind, trace_ratio=process.settings.trace_ratio, grant=process.tracer.grant)
    telling = Telling(process, kind, name)
    labels = {"hop": "accept", "arm": name}
    for decision in sorted(set(DECISIONS.values())):
        process.metrics.add("delivery.dedup.decisions", 0, decision=decision, **labels)

    async def accept(request: Request) -> Response:
        start_ns = time.time_ns()
        body = await read_body(request)
        new = reader.read(request.headers, body)
        try:
            await process.failpoints.hit("accept.before_commit")
            answer = await arm.accept(new)
            await process.failpoints.hit("accept.after_commit_before_answer")
        except InjectedError as error:
            telling.failed(new, start_ns, 503)
            raise unavailable(str(error)) from error
        except Problem as problem:
            telling.failed(new, start_ns, problem.status)
            raise
        telling.answered(new, answer, start_ns)
        if decision := DECISIONS.get(answer.outcome):
            process.metrics.add("delivery.dedup.decisions", 1, decision=decision, **labels)
        return _respond(answer, f"{kind.path}/{new.payload.order_id}")

    async def find(request: Request) -> Response:
        business_id = request.path_params["id"]
        found = await intents.find(business_id) if _BUSINESS_ID.fullmatch(business_id) else None
        if found is None:
            raise Problem("not_found", f"{kind.path}/{business_id}", field="id")
        return Response(msgspec.json.encode(found), media_type=_JSON)

    return [Route(kind.path, accept, methods=["POST"]), Route(kind.path + "/{id}", find, methods=["GET"])]


def _respond(answer: Answer, location: str) -> Response:
    match answer.outcome:
        case "created":
            return Response(answer.body, 201, {"Location": location}, _JSON)
        case "replayed":
            return Response(answer.body, 201, {"Location": location, **REPLAYED}, _JSON)
        case "mismatch":
            raise Problem("key_reused", "take a new key for another request", field=HEADER)
        case "in_progress":
            raise Problem("in_progress", "the same request again will be answered", headers={"Retry-After": "1"})
        case "taken":
            raise Problem("taken", f"order_id: {location} exists already", field="order_id")
