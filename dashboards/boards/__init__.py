"""The boards, one module each."""

from collections.abc import Callable
from typing import Any, Final

from dashboards.boards.duplicates_and_loss import duplicates_and_loss
from dashboards.boards.lab_health import lab_health
from dashboards.boards.overview import overview
from dashboards.boards.relay_and_kafka import relay_and_kafka
from dashboards.boards.retries_and_dead_letters import retries_and_dead_letters

BOARDS: Final[tuple[Callable[[], dict[str, Any]], ...]] = (
    overview,
    duplicates_and_loss,
    relay_and_kafka,
    retries_and_dead_letters,
    lab_health,
)
