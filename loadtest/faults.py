"""What an unreliable client does: it sends a request whole and does not read the answer."""

import socket
import struct
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from loadtest.plan import ClientFault

_CONNECT_TIMEOUT_S: Final = 2.0
_PATIENCE_S: Final = 0.002  # shorter than an answer takes
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


def send_and_give_up(fault: ClientFault, url: str, headers: Mapping[str, str], body: bytes) -> None:
    """Send a POST on a connection of its own and close it before the answer: in good order, or with a reset.

    Raises OSError where there is no connection.
    """
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=_CONNECT_TIMEOUT_S) as connection:
        connection.sendall(_head(address.netloc, address.path, headers, len(body)) + body)
        if fault == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        else:
            time.sleep(_PATIENCE_S)


def _head(host: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
