"""From bytes to a checked struct, or to a problem that names the field; reading is bounded in size and time."""

import asyncio
import re
from typing import Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from services.http.problem import Problem

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
# A client that is still sending does not read the answer: so much is taken from it and thrown away before.
DRAIN_BYTES: Final = 16 * 1024 * 1024

_CLOSE: Final = {"Connection": "close"}

T = TypeVar("T")

_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED: Final = re.compile(r"field `([^`]*)`$")


async def read_body(request: Request) -> bytes:
    """The request's body. Raises Problem `body_too_large` beyond 64 KiB, `body_incomplete` when it does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            too_large = int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES
            if too_large and request.headers.get("expect"):
                raise _too_large()  # it asked first, so nothing is under way
            dropped = 0
            async for part in request.stream():
                too_large = too_large or len(body) + len(part) > MAX_BODY_BYTES
                if not too_large:
                    body += part
                    continue
                dropped += len(part)
                if dropped > DRAIN_BYTES:
                    break
    except TimeoutError:
        raise Problem("body_incomplete", f"not whole after {BODY_TIMEOUT_S:g} s", headers=_CLOSE) from None
    except ClientDisconnect:
        raise Problem("body_incomplete", "the client went away") from None
    if too_large:
        raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    return Problem("body_too_large", f"a body has at most {MAX_BODY_BYTES} bytes", field="body", headers=_CLOSE)


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode and check. Raises Problem `malformed` for what is not JSON, `invalid` for what does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        field, detail = fault_of(error)
        raise Problem("invalid", detail, field=field) from None
    except UnicodeDecodeError as error:
        raise Problem("malformed", f"not UTF-8: {error.reason}", field="body") from None
    except msgspec.DecodeError as error:
        raise Problem("malformed", str(error), field="body") from None
    except RecursionError:
        raise Problem("malformed", "nested too deeply", field="body") from None


def fault_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """The field at fault and what is wrong with it: `body` when it is the whole.

    A struct's own check (`__post_init__`) has no path in its text; there the text begins with the field's name.
    """
    text = str(error)
    if found := _PATH.search(text):
        return found[1], f"{found[1]}: {text[: found.start()]}"
    if found := _NAMED.search(text):
        return found[1], text
    if isinstance(error.__cause__, ValueError):
        return text.partition(" ")[0], text
    return "body", text
