"""The HTTP face of the third party."""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.domain.arms import CONSUMER_ARMS
from services.failpoints import Failpoints
from services.http.bodies import decode_body, read_body
from services.http.keys import HEADER, REPLAYED, check_key
from services.http.problem import Problem
from services.provider.calls import NOT_AFTER_HEADER, Charge, Email, caller_of, key_of, not_after_s
from services.provider.misbehaviour import misbehaving
from services.provider.store import Answer, Books, Outcome
from services.telemetry.catalogue import OTHER_ARM
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics

_JSON: Final = "application/json"
_CHARGE: Final = msgspec.json.Decoder(Charge)
_EMAIL: Final = msgspec.json.Decoder(Email)


# What is decided about an Idempotency-Key; while its first call is in progress, and too late, nothing is.
_DECISIONS: Final[Mapping[Outcome, str]] = {"applied": "first", "replayed": "duplicate", "mismatch": "conflict"}


def make_routes(books: Books, failpoints: Failpoints, metrics: Metrics, log: Log) -> list[Route]:
    """Charges, which honour an Idempotency-Key, and emails, which do not."""

    async def charge(request: Request) -> Response:
        call = decode_body(_CHARGE, await read_body(request))
        caller, key, not_after = caller_of(request.headers), key_of(request.headers), not_after_s(request.headers)
        await failpoints.hit("provider.before_applying", call.account)
        answer = await books.charge(call, caller, key, not_after)
        if key is not None and (decision := _DECISIONS.get(answer.outcome)):
            arm = call.account if call.account in CONSUMER_ARMS else OTHER_ARM
            metrics.add("delivery.dedup.decisions", 1, hop="charge", arm=arm, decision=decision)
            if decision != "first":
                fields = {"hop": "charge", "arm": arm, "decision": decision, "reason": "repeated_call"}
                ids = {"dedup.key": key, "message.id": call.message_id, "original.message.id": call.message_id}
                log.event("dedup.decision", **fields, **ids, at=str(caller.record))
        if answer.outcome == "applied":  # what only repeats or refuses applies nothing
            await failpoints.hit("provider.after_applying_before_answer", call.account)
        return _respond(answer)

    async def email(request: Request) -> Response:
        call = decode_body(_EMAIL, await read_body(request))
        caller = caller_of(request.headers)
        await failpoints.hit("provider.before_applying", call.account)
        body = await books.email(call, caller)
        await failpoints.hit("provider.after_applying_before_answer", call.account)
        return Response(body, 201, media_type=_JSON)

    async def find(request: Request) -> Response:
        account, key = _parameter(request, "account"), check_key(_parameter(request, "idempotency_key"))
        body = await books.find(account, key)
        if body is None:
            raise Problem("not_found", "no charge is known under this key", field="idempotency_key")
        return Response(body, media_type=_JSON)

    async def accounts(_: Request) -> Response:
        return Response(msgspec.json.encode(await books.accounts()), media_type=_JSON)

    return [
        Route("/v1/charges", misbehaving(charge), methods=["POST"]),
        Route("/v1/charges", find, methods=["GET"]),
        Route("/v1/emails", misbehaving(email), methods=["POST"]),
        Route("/v1/accounts", accounts, methods=["GET"]),
    ]


def _parameter(request: Request, name: str) -> str:
    text = request.query_params.get(name, "")
    if not text or not text.isprintable():
        raise Problem("invalid", f"the parameter {name} must be a printable text", field=name)
    return text


def _respond(answer: Answer) -> Response:
    match answer.outcome:
        case "applied":
            return Response(answer.body, 201, media_type=_JSON)
        case "replayed":
            return Response(answer.body, 201, REPLAYED, _JSON)
        case "mismatch":
            raise Problem("key_reused", "take a new key for another charge", field=HEADER)
        case "in_progress":
            raise Problem("in_progress", "the same call again will be answered", headers={"Retry-After": "1"})
        case "too_late":
            raise Problem("too_late", f"{NOT_AFTER_HEADER} has passed; nothing was applied", field=NOT_AFTER_HEADER)
