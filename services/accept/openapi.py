"""The OpenAPI description of a producer."""

from typing import Any

import msgspec

from services.accept.store import Intent
from services.domain.effects import ALL
from services.domain.messages import EFFECTS_HEADER, RUN_HEADER, Kind
from services.http import openapi
from services.http.keys import HEADER
from services.http.openapi import KEY_SCHEMA, REFUSED, UNAVAILABLE, Parameter, problem, success


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a request that became an intent; a repeat gets the same bytes."""

    id: str
    message_id: str


def describe(kind: Kind) -> bytes:
    """The description, as JSON."""
    paths = {kind.path: {"post": _accept(kind.payload)}, kind.path + "/{id}": {"get": _find()}}
    return openapi.describe(kind.name, paths, [kind.payload, Accepted, Intent])


def _accept(payload: type) -> dict[str, Any]:
    run = {"type": "string", "pattern": "^[A-Za-z0-9._-]{0,64}$", "default": ""}
    return {
        "summary": f"Accept one {payload.__name__.lower()}, once a key",
        "parameters": [
            Parameter(HEADER, "header", KEY_SCHEMA, required=True),
            Parameter(EFFECTS_HEADER, "header", {"type": "string", "default": ALL}),
            Parameter(RUN_HEADER, "header", run),
        ],
        "requestBody": openapi.body(payload),
        "responses": {
            "201": success("Accepted, now or before", Accepted),
            **REFUSED,
            "409": problem("The key's first request is in progress, or the id is taken under another key"),
            "422": problem("The key was used with another payload"),
            **UNAVAILABLE,
        },
    }


def _find() -> dict[str, Any]:
    return {
        "summary": "What was accepted under an id",
        "parameters": [Parameter("id", "path", {"type": "string"}, required=True)],
        "responses": {"200": success("The intent", Intent), "404": problem("No intent has this id"), **UNAVAILABLE},
    }
