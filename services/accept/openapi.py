"""The OpenAPI description of a producer, made from the structs that check its requests."""

from typing import Any, Final

import msgspec

from services.accept.store import Intent
from services.domain.effects import ALL
from services.domain.messages import EFFECTS_HEADER, RUN_HEADER, Kind
from services.http.keys import HEADER
from services.http.problem import ProblemDocument

_REF: Final = "#/components/schemas/{name}"


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a request that became an intent; a repeat gets the same bytes."""

    id: str
    message_id: str


def describe(kind: Kind) -> bytes:
    """The description, as JSON."""
    name = kind.payload.__name__
    _, schemas = msgspec.json.schema_components([kind.payload, Accepted, Intent, ProblemDocument], ref_template=_REF)
    document = {
        "openapi": "3.1.0",
        "info": {"title": f"Delivery Lab: {kind.name}", "version": "1"},
        "paths": {
            kind.path: {"post": _accept(name)},
            kind.path + "/{id}": {"get": _find()},
        },
        "components": {"schemas": schemas},
    }
    return msgspec.json.encode(document)


def _accept(name: str) -> dict[str, Any]:
    key = {"type": "string", "pattern": "^[ -~]{1,255}$"}
    effects = {"type": "string", "default": ALL}
    run = {"type": "string", "pattern": "^[A-Za-z0-9._-]{0,64}$", "default": ""}
    refused = "Refused; the document names the field"
    return {
        "summary": f"Accept one {name.lower()}, once a key",
        "parameters": [
            {"name": HEADER, "in": "header", "required": True, "schema": key},
            {"name": EFFECTS_HEADER, "in": "header", "schema": effects},
            {"name": RUN_HEADER, "in": "header", "schema": run},
        ],
        "requestBody": {"required": True, "content": _content(name, "application/json")},
        "responses": {
            "201": {"description": "Accepted, now or before", "content": _content("Accepted", "application/json")},
            **{status: _problem(refused) for status in ("400", "408", "413")},
            "409": _problem("The key's first request is in progress, or the id is taken under another key"),
            "422": _problem("The key was used with another payload"),
            "503": _problem("Come again with the same key after Retry-After"),
        },
    }


def _find() -> dict[str, Any]:
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "summary": "What was accepted under an id",
        "parameters": [parameter],
        "responses": {
            "200": {"description": "The intent", "content": _content("Intent", "application/json")},
            "404": _problem("No intent has this id"),
            "503": _problem("Come again after Retry-After"),
        },
    }


def _content(name: str, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=name)}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": _content("ProblemDocument", "application/problem+json")}
