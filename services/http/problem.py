"""Refusals: one closed table of problem types, answered as RFC 9457 problem documents."""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

ProblemType = Literal[
    "no_http",
    "malformed",
    "invalid",
    "not_found",
    "method_not_allowed",
    "body_incomplete",
    "in_progress",
    "taken",
    "too_late",
    "body_too_large",
    "key_reused",
    "internal",
    "unavailable",
]
PROBLEM_TYPES: Final[tuple[ProblemType, ...]] = get_args(ProblemType)

_TABLE: Final[Mapping[ProblemType, tuple[int, str]]] = {
    "no_http": (400, "The request cannot be read as HTTP"),
    "malformed": (400, "The body cannot be read"),
    "invalid": (400, "A field is not what it must be"),
    "not_found": (404, "There is no such thing here"),
    "method_not_allowed": (405, "The path does not know this method"),
    "body_incomplete": (408, "The body did not arrive in time"),
    "in_progress": (409, "A request with this Idempotency-Key is still in progress"),
    "taken": (409, "The id is taken under another Idempotency-Key"),
    "too_late": (412, "The time up to which the request holds has passed"),
    "body_too_large": (413, "The body is too large"),
    "key_reused": (422, "The Idempotency-Key was used with another payload"),
    "internal": (500, "The service failed"),
    "unavailable": (503, "The service cannot answer now"),
}
_TYPE_OF_STATUS: Final[Mapping[int, ProblemType]] = {404: "not_found", 405: "method_not_allowed"}
_PART_OF_STATUS: Final = {404: "path", 405: "method"}  # of the request, which is at fault

_MEDIA_TYPE: Final = "application/problem+json"
_DETAIL_LENGTH: Final = 300  # details quote input: they stay short whatever it was


class FieldFault(msgspec.Struct, frozen=True):
    """What is wrong with one field or header."""

    field: str
    detail: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is not a success (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldFault, ...] = ()


class Problem(Exception):
    """Ends a request with a problem document. `field` names the field or header that is at fault, where one is."""

    def __init__(
        self, type_: ProblemType, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{type_}: {detail[:_DETAIL_LENGTH]}")
        self.type = type_
        self.status, self.title = _TABLE[type_]
        self.detail = detail[:_DETAIL_LENGTH]
        self.field = field and field[:_DETAIL_LENGTH]
        self.headers = headers

    def document(self) -> ProblemDocument:
        """What the client reads."""
        errors = (FieldFault(self.field, self.detail),) if self.field is not None else ()
        return ProblemDocument(f"urn:delivery-lab:problem:{self.type}", self.title, self.status, self.detail, errors)

    def response(self) -> Response:
        """The answer that carries the document."""
        body = msgspec.json.encode(self.document())
        return Response(body, self.status, headers=self.headers, media_type=_MEDIA_TYPE)


def unavailable(detail: str, *, retry_after_s: int = 1) -> Problem:
    """A 503 that says when to come again: what was asked may or may not have been done, the key tells."""
    return Problem("unavailable", detail, headers={"Retry-After": str(retry_after_s)})


async def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  # Starlette hands over what it was registered for
    return error.response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    detail = f"{request.method} {request.url.path}"
    type_, part = _TYPE_OF_STATUS.get(error.status_code, "invalid"), _PART_OF_STATUS.get(error.status_code)
    return Problem(type_, detail, field=part, headers=error.headers).response()


async def _answer_failure(_: Request, __: Exception) -> Response:
    """A defect of ours: the server logs it with its traceback, the client learns nothing of our inside."""
    return Problem("internal", "the log of the service says more").response()


EXCEPTION_HANDLERS: Final[Mapping[Any, Any]] = {
    Problem: _answer_problem,
    HTTPException: _answer_http,
    Exception: _answer_failure,
}
