"""How the third party fails when it is told to: the answer of an error injected at one of its failpoints."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.failpoints import InjectedError
from services.http.problem import ProblemDocument

Handler = Callable[[Request], Awaitable[Response]]

RETRY_AFTER_S: Final = 1  # of 429


def misbehaving(handler: Handler) -> Handler:
    """The handler, with injected errors answered as a third party that fails answers."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except InjectedError as error:
            return _failure(error)

    return handle


def _failure(error: InjectedError) -> Response:
    status = HTTPStatus(error.http_status or 500)
    problem = ProblemDocument("urn:delivery-lab:problem:injected", status.phrase, status, str(error))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.TOO_MANY_REQUESTS else None
    return Response(msgspec.json.encode(problem), status, headers, "application/problem+json")
