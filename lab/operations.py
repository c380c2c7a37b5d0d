"""The spans of what people order: redrives and replays, to which the messages that they bring again are linked."""

import time
import uuid
from typing import Final

from services.settings import Settings
from services.stack.home import Home
from services.telemetry.exporting import outlets
from services.telemetry.tracing import Attributes, Tracer, operation_context

PROCESS: Final = "lab"


def trace_operation(
    place: Home, settings: Settings, key: str, operation: str, start_ns: int, attributes: Attributes
) -> None:
    """Make the span of an operation that ended now. What a trace store does not take in two tries is given up."""
    file = place.span_file(PROCESS)
    tracer = Tracer(
        PROCESS, str(uuid.uuid4()), ways=outlets(file, settings.zipkin, settings.otlp, lambda _: None), per_s=1.0
    )  # fmt: skip
    tracer.span(
        key, operation_context(operation), start_ns=start_ns, end_ns=time.time_ns(),
        attributes={"delivery.operation": operation, **attributes},
    )  # fmt: skip
    tracer.close(5.0)  # two tries
