"""OpenAPI descriptions, made from the structs that check requests."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from services.http.problem import ProblemDocument

_REF: Final = "#/components/schemas/{name}"


class Parameter(msgspec.Struct, frozen=True):
    """A header, query or path parameter, as OpenAPI writes it."""

    name: str
    within: str = msgspec.field(name="in")
    schema: Mapping[str, Any]
    required: bool = False


def describe(title: str, paths: Mapping[str, Any], structs: Sequence[type]) -> bytes:
    """The description, as JSON; `structs` are those that the paths name."""
    _, schemas = msgspec.json.schema_components([*structs, ProblemDocument], ref_template=_REF)
    info = {"title": f"Delivery Lab: {title}", "version": "1"}
    return msgspec.json.encode({"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}})


def body(struct: type) -> dict[str, Any]:
    """A required request body."""
    return {"required": True, "content": _content(struct, "application/json")}


def success(description: str, struct: type) -> dict[str, Any]:
    """An answer that carries `struct`."""
    return {"description": description, "content": _content(struct, "application/json")}


def problem(description: str) -> dict[str, Any]:
    """An answer that carries a problem document."""
    return {"description": description, "content": _content(ProblemDocument, "application/problem+json")}


def _content(struct: type, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=struct.__name__)}}}


KEY_SCHEMA: Final = {"type": "string", "pattern": "^[ -~]{1,255}$"}
REFUSED: Final = {status: problem("Refused; the document names the field") for status in ("400", "408", "413")}
UNAVAILABLE: Final = {"503": problem("Come again, with the same key, after Retry-After")}
