"""The data sources that boards ask, by the uid under which Grafana's provisioning makes them."""

from typing import Any, Final

from grafana_foundation_sdk.builders.prometheus import Dataquery as Prometheus
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = Any  # a builder of the SDK

METRICS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
EVIDENCE: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="auditor")


class _Sql:
    """A Postgres query, builder and built in one: the SDK has none."""

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def build(self) -> "_Sql":
        return self

    def to_json(self) -> dict[str, Any]:
        return {
            "refId": "A", "datasource": EVIDENCE, "editorMode": "code", "format": "table", "rawQuery": True,
            "rawSql": self._sql,
        }  # fmt: skip


def over_time(expr: str, legend: str, ref: str = "A") -> Query:
    """A query for a chart."""
    return Prometheus().ref_id(ref).datasource(METRICS).expr(expr).legend_format(legend).range()


def with_traces(expr: str, legend: str) -> Query:
    """A query for a chart with exemplars: a dot is a trace."""
    return over_time(expr, legend).exemplar(True)


def now(expr: str, legend: str, ref: str = "A") -> Query:
    """A query for a number: its value at the end of the range."""
    return Prometheus().ref_id(ref).datasource(METRICS).expr(expr).legend_format(legend).instant()


def cells(expr: str, ref: str = "A") -> Query:
    """A query for a table: a row a label set."""
    return Prometheus().ref_id(ref).datasource(METRICS).expr(expr).format(PromQueryFormat.TABLE).instant()


def evidence(sql: str) -> Query:
    """A query to the `auditor` database."""
    return _Sql(sql)
