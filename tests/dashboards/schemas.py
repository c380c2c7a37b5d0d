"""What the files under deploy/ may say that no tool here reads: the keys that are used, by hand, as each is documented.

A key that is not here is refused, so one that is added is looked up first, and a misspelt one is noticed.
"""

from datetime import date
from typing import Annotated, Literal

import msgspec

Duration = Annotated[str, msgspec.Meta(pattern=r"^-?\d+(ms|s|m|h)$")]
Url = Annotated[str, msgspec.Meta(pattern=r"^http://[\w.-]+:\d+(/[\w/]*)?$")]
Place = Annotated[str, msgspec.Meta(pattern=r"^[\w.]+:\d+$")]
Folder = Annotated[str, msgspec.Meta(pattern=r"^/[\w/]+$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class Closed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A mapping with these keys and no others; what has no default must be there."""


class Server(Closed):
    http_listen_port: Port


# --- Loki 3


class KeyValueStore(Closed):
    store: Literal["inmemory"]


class Ring(Closed):
    kvstore: KeyValueStore


class Filesystem(Closed):
    chunks_directory: Folder
    rules_directory: Folder


class CommonStorage(Closed):
    filesystem: Filesystem


class Common(Closed):
    instance_addr: str
    path_prefix: Folder
    replication_factor: int
    ring: Ring
    storage: CommonStorage


class Index(Closed):
    prefix: str
    period: Literal["24h"]  # of tsdb, no other


class Period(Closed):
    from_: date = msgspec.field(name="from")
    store: Literal["tsdb"]
    object_store: Literal["filesystem"]
    schema: Literal["v13"]  # structured metadata needs it
    index: Index


class Periods(Closed):
    configs: tuple[Period, ...]


class Limits(Closed):
    allow_structured_metadata: bool
    retention_period: Duration


class Compactor(Closed):
    working_directory: Folder
    retention_enabled: bool
    delete_request_store: Literal["filesystem"]


class Analytics(Closed):
    reporting_enabled: bool


class Loki(Closed):
    auth_enabled: bool
    server: Server
    common: Common
    schema_config: Periods
    limits_config: Limits
    compactor: Compactor
    analytics: Analytics


# --- Tempo 3


class Endpoint(Closed):
    endpoint: Place


class Protocols(Closed):
    http: Endpoint


class Otlp(Closed):
    protocols: Protocols


class SpanReceivers(Closed):
    otlp: Otlp


class Distributor(Closed):
    receivers: SpanReceivers


class RemoteWrite(Closed):
    url: Url
    send_exemplars: bool


class GeneratorStorage(Closed):
    path: Folder
    remote_write: tuple[RemoteWrite, ...]


class Generator(Closed):
    storage: GeneratorStorage


class Path(Closed):
    path: Folder


class TraceStorage(Closed):
    backend: Literal["local"]
    local: Path
    wal: Path


class Storage(Closed):
    trace: TraceStorage


class Processors(Closed):
    processors: tuple[Literal["span-metrics", "service-graphs"], ...]


class Defaults(Closed):
    metrics_generator: Processors


class Overrides(Closed):
    defaults: Defaults


class Tempo(Closed):
    stream_over_http_enabled: bool
    server: Server
    distributor: Distributor
    metrics_generator: Generator
    storage: Storage
    overrides: Overrides


# --- the collector (contrib)


class Timestamp(Closed):
    parse_from: str
    layout_type: Literal["gotime", "strptime", "epoch"]
    layout: str


class Severity(Closed):
    parse_from: str


class JsonParser(Closed, tag_field="type", tag="json_parser"):
    timestamp: Timestamp
    severity: Severity


class Move(Closed, tag_field="type", tag="move"):
    from_: str = msgspec.field(name="from")
    to: str
    if_: str = msgspec.field(name="if")


class Filelog(Closed):
    include: tuple[str, ...]
    start_at: Literal["beginning", "end"]
    operators: tuple[JsonParser | Move, ...]


class Receivers(Closed):
    filelog: Filelog


class MemoryLimiter(Closed):
    check_interval: Duration
    limit_mib: int


class Batch(Closed):
    timeout: Duration


class CollectorProcessors(Closed):
    memory_limiter: MemoryLimiter
    batch: Batch


class OtlpHttp(Closed):
    endpoint: Url


class Exporters(Closed):
    otlphttp: OtlpHttp


class Extensions(Closed):
    health_check: Endpoint


class Pipeline(Closed):
    receivers: tuple[Literal["filelog"], ...]
    processors: tuple[Literal["memory_limiter", "batch"], ...]
    exporters: tuple[Literal["otlphttp"], ...]


class Pipelines(Closed):
    logs: Pipeline


class Level(Closed):
    level: Literal["none", "basic", "normal", "detailed"]


class Telemetry(Closed):
    metrics: Level


class Service(Closed):
    extensions: tuple[Literal["health_check"], ...]
    pipelines: Pipelines
    telemetry: Telemetry


class Collector(Closed):
    receivers: Receivers
    processors: CollectorProcessors
    exporters: Exporters
    extensions: Extensions
    service: Service


# --- Grafana's provisioning


class Options(Closed):
    path: Folder


class Provider(Closed):
    name: str
    folder: str
    folderUid: str
    type: Literal["file"]
    disableDeletion: bool
    allowUiUpdates: bool
    updateIntervalSeconds: int
    options: Options


class Boards(Closed):
    apiVersion: Literal[1]
    providers: tuple[Provider, ...]


class Exemplar(Closed):
    name: str
    datasourceUid: str


class OfPrometheus(Closed):
    timeInterval: Duration
    httpMethod: Literal["POST", "GET"]
    manageAlerts: bool
    alertmanagerUid: str
    exemplarTraceIdDestinations: tuple[Exemplar, ...]


class OfAlertmanager(Closed):
    implementation: Literal["prometheus", "mimir", "cortex"]
    handleGrafanaManagedAlerts: bool


class OfPostgres(Closed):
    database: str
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"]
    postgresVersion: int
    maxOpenConns: int


class ToLogs(Closed):
    datasourceUid: str
    spanStartTimeShift: Duration
    spanEndTimeShift: Duration
    filterByTraceID: bool


class ToMetrics(Closed):
    datasourceUid: str


class NodeGraph(Closed):
    enabled: bool


class OfTempo(Closed):
    tracesToLogsV2: ToLogs
    tracesToMetrics: ToMetrics
    nodeGraph: NodeGraph


class DerivedField(Closed):
    name: str
    matcherType: Literal["label", "regex"]
    matcherRegex: str
    datasourceUid: str
    url: str


class OfLoki(Closed):
    derivedFields: tuple[DerivedField, ...]


class Source(Closed, tag_field="type"):
    name: str
    uid: str
    access: Literal["proxy"]


class PrometheusSource(Source, tag="prometheus"):
    url: Url
    isDefault: bool
    jsonData: OfPrometheus


class AlertmanagerSource(Source, tag="alertmanager"):
    url: Url
    jsonData: OfAlertmanager


class Secret(Closed):
    password: str


class PostgresSource(Source, tag="grafana-postgresql-datasource"):
    url: Place
    user: str
    jsonData: OfPostgres
    secureJsonData: Secret


class TempoSource(Source, tag="tempo"):
    url: Url
    jsonData: OfTempo


class LokiSource(Source, tag="loki"):
    url: Url
    jsonData: OfLoki


class Sources(Closed):
    apiVersion: Literal[1]
    prune: bool
    datasources: tuple[PrometheusSource | AlertmanagerSource | PostgresSource | TempoSource | LokiSource, ...]


SCHEMAS = {
    "loki.yml": Loki,
    "tempo.yml": Tempo,
    "collector.yml": Collector,
    "grafana/datasources/lab.yml": Sources,
    "grafana/dashboards/lab.yml": Boards,
}
