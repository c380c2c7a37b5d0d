"""What guards an API of the stack: the lab's token, and errors that are sentences. Of the supervisor and of keepers."""

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

MAX_BODY: Final = 64 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Statuses = Mapping[type[Exception], int]
STATUSES: Final[Statuses] = {
    ProcessLookupError: 409,  # not running, not frozen: the right words at the wrong time
    ValueError: 400,
    msgspec.DecodeError: 400,
    OSError: 507,  # a full disk: what was done could not be written down
}


def guarded(token: str, open_to_all: Collection[str], statuses: Statuses = STATUSES) -> web.Application:
    """An application that answers who brings the token, and everyone on the paths `open_to_all`.

    Errors are `{"error": text}`: 401 (token), 413 (a body over the bound), what `statuses` says of an exception (the
    first that fits).
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_to_all:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _error(401, "the lab's token is missing or wrong (it lies in LAB_HOME/run/token.secret)")
        try:
            return await handler(request)
        except web.HTTPException as error:  # no such path, another method, a body over the bound
            return _error(error.status, error.reason)
        except tuple(statuses) as error:
            return _error(next(status for kind, status in statuses.items() if isinstance(error, kind)), str(error))

    return web.Application(middlewares=[guard], client_max_size=MAX_BODY)


def json_response(document: Any) -> web.Response:
    """A success."""
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
