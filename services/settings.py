"""Settings: read from the environment once, by a process's composition root, and handed on as one frozen value.

Every setting is an environment variable: the field's name in capitals with `LAB_` before it.
"""

import os
from collections.abc import Mapping

import msgspec


class SettingsError(ValueError):
    """A `LAB_…` variable has a value that its setting cannot take; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know. Times carry their unit as the last word of the name."""

    process: str = "adhoc"  # the process's name in `lab status`, e.g. relay#0
    home: str = ".lab"  # where everything a lab writes lies
    bind: str = "127.0.0.1"
    port_base: int = 21000
    http_port: int = 0  # the service's public port; 0 takes a free one
    admin_port: int = 0  # /healthz /readyz /metrics
    postgres: str = ""  # postgresql://user:password@host:port, without a database
    ledger: str = ""  # the same for the second server, which holds the ledgers
    kafka: str = ""  # bootstrap servers
    provider: str = ""  # base URL of the third party
    prometheus: str = ""  # base URL
    supervisor: str = ""  # base URL of the lab's supervisor
    token: str = ""  # what the supervisor's mutating endpoints ask for
    faults: bool = False  # whether failpoints can be armed at all
    log_file: str = ""  # JSON lines go here; empty: stderr
    span_file: str = ""  # spans go here as JSON lines, too; empty: nowhere
    zipkin: str = ""  # base URL of the trace store; empty: none
    otlp: str = ""  # base URL of an OTLP receiver (HTTP) for spans; empty: none
    trace_ratio: float = 0.01  # share of requests that are sampled, of those that bring no traceparent
    telemetry: bool = True  # off: no metrics, spans, or log events of what went well; to measure what they cost
    trace_budget_per_s: float = 20.0  # messages a process makes spans for at most, four seconds' worth at once; 0: none

    session_timeout_s: float = 6.0
    heartbeat_s: float = 1.0
    chunk: int = 500  # records handed to a consumer arm at once
    provider_timeout_s: float = 2.0
    provider_concurrency: int = 16  # calls a consumer arm has in flight at most
    key_lifetime_s: float = 86_400.0  # how long the provider remembers an idempotency key
    dedup_window_s: float = 604_800.0  # how long effectively_once remembers ids: 7 days
    apply_older_than_window: bool = False  # apply what may have been forgotten, to show the hole
    charge_after_key_lifetime: bool = False  # repeat a charge whose key may have been forgotten, to show the hole
    relay_batch: int = 2_000
    relay_idle_poll_ms: float = 5.0
    publishers: str = "outbox"  # the publisher arms of this lab, with commas between
    consumers: str = ""  # its consumer arms; empty: all
    slot_lag_bound_mb: int = 256  # a replication slot that holds back more of the write-ahead log raises an alarm
    pool_size: int = 8  # Postgres connections a producer holds at most


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `LAB_…` variables; others are ignored.

    Raises SettingsError when a value does not fit, naming the variable.
    """
    source = os.environ if environment is None else environment
    given = {f: source[name] for f in Settings.__struct_fields__ if (name := "LAB_" + f.upper()) in source}
    for boolean in ("faults", "apply_older_than_window", "charge_after_key_lifetime", "telemetry"):
        if boolean in given and given[boolean] not in {"0", "1", "true", "false"}:
            raise SettingsError(f"LAB_{boolean.upper()}={given[boolean]!r}: say 0 or 1")
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"a LAB_ setting does not fit: {error}") from None
