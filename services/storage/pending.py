"""Which rows of a table `outbox` are not published yet, by how its publisher arm keeps them."""

from collections.abc import Mapping
from typing import Final

from services.domain.arms import Outbox

PENDING: Final[Mapping[Outbox, str]] = {
    "until_confirmed": "true",
    "cursor": "position > (SELECT position FROM progress)",
    "snapshot": "pg_visible_in_snapshot(xid, (SELECT snapshot FROM progress)) IS NOT TRUE",
}
