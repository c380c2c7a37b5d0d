"""The spans of what people order: redrives and replays, to which the messages that they bring again are linked."""

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from services.settings import Settings
from services.stack.home import Home

PROCESS: Final = "lab"


def trace_operation(
    place: Home, settings: Settings, key: str, operation: str, start_ns: int, attributes: Mapping[str, Any]
) -> None:
    """Make the span of an operation that ended now. What a trace store does not take in two tries is given up."""
    from services.telemetry.exporting import outlets  # noqa: PLC0415  # the CLI starts without what only this needs
    from services.telemetry.tracing import Tracer, operation_context  # noqa: PLC0415

    file = place.span_file(PROCESS)
    tracer = Tracer(
        PROCESS, str(uuid.uuid4()), ways=outlets(file, settings.zipkin, settings.otlp, lambda _: None), per_s=1.0
    )  # fmt: skip
    tracer.span(
        key, operation_context(operation), start_ns=start_ns, end_ns=time.time_ns(),
        attributes={"delivery.operation": operation, **attributes},
    )  # fmt: skip
    tracer.close(5.0)  # two tries
