"""The OpenAPI description of the third party."""

from typing import Any, Final

import msgspec

from services.http import openapi
from services.http.keys import HEADER
from services.http.openapi import KEY_SCHEMA, REFUSED, UNAVAILABLE, Parameter, problem, success
from services.provider.calls import NOT_AFTER_HEADER, RECORD_HEADER, Charge, Email
from services.provider.store import Account

_TEXT: Final = {"type": "string"}
_RECORD: Final = Parameter(RECORD_HEADER, "header", {"type": "string", "examples": ["orders.v1/0/17"]}, required=True)


class Applied(msgspec.Struct, frozen=True):
    """The answer to a call that was applied; a repeat of a charge's key gets the same bytes."""

    id: str
    message_id: str


def describe() -> bytes:
    """The description, as JSON."""
    paths = {
        "/v1/charges": {"post": _charge(), "get": _find()},
        "/v1/emails": {"post": _email()},
        "/v1/accounts": {"get": _accounts()},
    }
    return openapi.describe("provider", paths, [Charge, Email, Applied, Account])


def _charge() -> dict[str, Any]:
    return {
        "summary": "Take money: once a key where one is sent, at every call where none is",
        "parameters": [
            _RECORD,
            Parameter(HEADER, "header", KEY_SCHEMA),
            Parameter(NOT_AFTER_HEADER, "header", {"type": "string", "examples": ["1790000000.5"]}),
        ],
        "requestBody": openapi.body(Charge),
        "responses": {
            "201": success("Applied, now or before", Applied),
            **REFUSED,
            "409": problem("The key's first call is in progress"),
            "412": problem("The time has passed and the key is not known: nothing was applied"),
            "422": problem("The key was used with another payload"),
            **UNAVAILABLE,
        },
    }


def _email() -> dict[str, Any]:
    return {
        "summary": "Send an email, at every call",
        "parameters": [_RECORD],
        "requestBody": openapi.body(Email),
        "responses": {"201": success("Sent", Applied), **REFUSED, **UNAVAILABLE},
    }


def _find() -> dict[str, Any]:
    return {
        "summary": "What was answered under a key that has not expired",
        "parameters": [Parameter(name, "query", _TEXT, required=True) for name in ("account", "idempotency_key")],
        "responses": {"200": success("The charge", Applied), "404": problem("No such key"), **UNAVAILABLE},
    }


def _accounts() -> dict[str, Any]:
    listing = success("Applications by account and effect", Account)
    (content,) = listing["content"].values()
    content["schema"] = {"type": "array", "items": content["schema"]}
    return {"summary": "How often each effect was applied", "responses": {"200": listing, **UNAVAILABLE}}
