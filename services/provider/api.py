"""The HTTP face of the third party."""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.http.bodies import decode_body, read_body
from services.http.keys import HEADER, REPLAYED, check_key
from services.http.problem import Problem
from services.provider.calls import NOT_AFTER_HEADER, Charge, Email, caller_of, key_of, not_after_s
from services.provider.store import Answer, Books

_JSON: Final = "application/json"
_CHARGE: Final = msgspec.json.Decoder(Charge)
_EMAIL: Final = msgspec.json.Decoder(Email)


def make_routes(books: Books) -> list[Route]:
    """Charges, which honour an Idempotency-Key, and emails, which do not."""

    async def charge(request: Request) -> Response:
        call = decode_body(_CHARGE, await read_body(request))
        headers = request.headers
        return _respond(await books.charge(call, caller_of(headers), key_of(headers), not_after_s(headers)))

    async def email(request: Request) -> Response:
        call = decode_body(_EMAIL, await read_body(request))
        return Response(await books.email(call, caller_of(request.headers)), 201, media_type=_JSON)

    async def find(request: Request) -> Response:
        account, key = _parameter(request, "account"), check_key(_parameter(request, "idempotency_key"))
        body = await books.find(account, key)
        if body is None:
            raise Problem("not_found", "no charge is known under this key", field="idempotency_key")
        return Response(body, media_type=_JSON)

    async def accounts(_: Request) -> Response:
        return Response(msgspec.json.encode(await books.accounts()), media_type=_JSON)

    return [
        Route("/v1/charges", charge, methods=["POST"]),
        Route("/v1/charges", find, methods=["GET"]),
        Route("/v1/emails", email, methods=["POST"]),
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
