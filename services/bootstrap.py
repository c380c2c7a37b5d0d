"""What every process's composition root does first: settings, a life, its log, metrics, failpoints and tracer."""

import atexit
import os
import uuid

import msgspec

from services.failpoints import Failpoints
from services.settings import Settings, read_settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.silence import SilentLog, SilentMetrics
from services.telemetry.tracing import Tracer, make_tracer
from services.telemetry.vitals import observe_vitals


class Process(msgspec.Struct, frozen=True):
    """What a running process has."""

    settings: Settings
    life: uuid.UUID  # one an incarnation: carried by every row and call that it makes
    log: Log
    metrics: Metrics
    failpoints: Failpoints
    tracer: Tracer


def start_process() -> Process:
    """Read the environment and begin: the first line in the log says which life this is.

    Raises SettingsError when the environment does not fit.
    """
    settings = read_settings()
    life = uuid.uuid4()
    log = (Log if settings.telemetry else SilentLog)(settings.process, str(life), settings.log_file)
    log.capture_logging()
    log.event("process.started", pid=os.getpid())
    failpoints = Failpoints(settings.process, settings.supervisor, settings.token, allowed=settings.faults)
    metrics = (Metrics if settings.telemetry else SilentMetrics)(settings.process, str(life))
    log.on_drop = lambda count: metrics.add("delivery.telemetry.dropped", count, signal="log")
    observe_vitals(metrics, str(life))
    tracer = make_tracer(settings, str(life), metrics)
    atexit.register(tracer.close)
    return Process(settings, life, log, metrics, failpoints, tracer)
