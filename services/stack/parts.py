"""The table of parts: every process of the lab. It makes the native stack; compose is checked against it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Literal

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.messages import ORDERS

Kind = Literal["postgres", "kafka", "prometheus", "alertmanager", "zipkin", "grafana", "service", "task", "own"]
Dependencies = tuple[str, ...]

SUPERVISOR_PORT: Final = 100  # offsets from LAB_PORT_BASE
MAX_REPLICAS: Final = 8
SERVERS: Final[Dependencies] = ("postgres", "ledger", "kafka")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a process of the lab. Ports are offsets from LAB_PORT_BASE; 0 means that it has none."""

    name: str
    kind: Kind
    gloss: str
    after: Dependencies = ()  # parts that must be ready first
    module: str = ""  # python -m MODULE ARGUMENTS
    arguments: tuple[str, ...] = ()
    port: int = 0
    second_port: int = 0  # Kafka's controller
    admin_port: int = 0  # of replica 0; replica n listens n above it
    memory_mb: int = 400  # bound: JVM heap for Kafka, resident size for the rest
    replicas: int = 1
    replicable: bool = False  # replicas are named part#n
    optional: bool = False  # the lab goes on without it
    publisher: str = ""  # the publisher arm, or the consumer arm, without which it is not needed
    consumer: str = ""

    def instance(self, replica: int) -> str:
        """The process name of a replica."""
        return f"{self.name}#{replica}" if self.replicable else self.name

    @property
    def resident_bound_mb(self) -> int:
        """The resident size above which it is killed. A JVM is more than its heap: `kafka.BEYOND_HEAP` caps that."""
        return self.memory_mb + (512 if self.kind == "kafka" else 0)


def _publisher_parts() -> Iterator[Part]:
    """Of every publisher arm but the default one: its producer, and the process that publishes its outbox."""
    others = [arm for arm in PUBLISHER_ARMS.values() if arm.name != DEFAULT_PUBLISHER]
    for number, arm in enumerate(others):
        yield Part(
            name=arm.producer(ORDERS),
            kind="service",
            gloss=f"orders: {arm.gloss}",
            after=("provision",),
            module="services.orders",
            arguments=(arm.name,),
            port=40 + number,
            admin_port=104 + number,
            publisher=arm.name,
        )
    for number, arm in enumerate(arm for arm in others if arm.outbox != "none"):
        yield Part(
            name=arm.name,
            kind="service",
            gloss=arm.gloss,
            after=("provision",),
            module=f"services.{arm.name}",
            admin_port=108 + number,
            publisher=arm.name,
        )


def _consumer_parts() -> Iterator[Part]:
    for number, arm in enumerate(CONSUMER_ARMS.values()):
        yield Part(
            name=f"arm.{arm.name}",
            kind="service",
            gloss=arm.gloss,
            after=("provision", "provider"),
            module="services.payments",
            arguments=(arm.name,),
            admin_port=120 + 10 * number,
            replicable=True,
            consumer=arm.name,
        )


def _lane_parts() -> Iterator[Part]:
    retrying = (arm for arm in CONSUMER_ARMS.values() if arm.retries)
    for number, arm in enumerate(retrying):
        yield Part(
            name=f"retry.{arm.name}",
            kind="service",
            gloss=f"retries and redeliveries of {arm.name}",
            after=("provision", "provider"),
            module="services.payments",
            arguments=("lane", arm.name),
            admin_port=170 + 10 * number,
            replicable=True,
            consumer=arm.name,
        )


PARTS: Final[Mapping[str, Part]] = {
    part.name: part
    for part in (
        Part(name="postgres", kind="postgres", gloss="intents, outboxes, payments", port=1, memory_mb=2000),
        Part(name="ledger", kind="postgres", gloss="the ledgers that no fault touches", port=4, memory_mb=2000),
        Part(name="kafka", kind="kafka", gloss="the broker", port=2, second_port=3, memory_mb=512),
        Part(
            name="prometheus",
            kind="prometheus",
            gloss="metrics",
            port=10,
            memory_mb=800,
            optional=True,
        ),
        Part(
            name="alertmanager",
            kind="alertmanager",
            gloss="sends alerts to the console",
            port=11,
            memory_mb=200,
            optional=True,
        ),
        Part(name="zipkin", kind="zipkin", gloss="traces", port=12, memory_mb=600, optional=True),
        Part(
            name="console",
            kind="service",
            gloss="boards, runbooks, pages received",
            module="services.console",
            port=30,
            admin_port=195,
            memory_mb=200,
            optional=True,
        ),
        Part(
            name="provision",
            kind="task",
            gloss="databases, topics, group starts",
            after=SERVERS,
            module="services.stack.provision",
        ),
        Part(
            name="orders",
            kind="service",
            gloss="accepts orders over HTTP",
            after=("provision",),
            module="services.orders",
            port=20,
            admin_port=101,
            publisher=DEFAULT_PUBLISHER,
        ),
        Part(
            name="refunds",
            kind="service",
            gloss="accepts refunds over HTTP",
            after=("provision",),
            module="services.refunds",
            port=21,
            admin_port=102,
            publisher=DEFAULT_PUBLISHER,
        ),
        Part(
            name="provider",
            kind="service",
            gloss="third party: charges and emails",
            after=("provision",),
            module="services.provider",
            port=22,
            admin_port=103,
        ),
        Part(
            name="relay",
            kind="service",
            gloss="outbox rows to Kafka",
            after=("provision",),
            module="services.relay",
            admin_port=110,
            replicable=True,
        ),
        Part(
            name="probe",
            kind="service",
            gloss="group lag, outboxes, dead letters",
            after=("provision",),
            module="services.probe",
            admin_port=190,
        ),
        Part(
            name="auditor",
            kind="service",
            gloss="proves what is lost, doubled, made up",
            after=("provision",),
            module="services.auditor",
            admin_port=191,
            memory_mb=1500,
        ),
        *_publisher_parts(),
        *_consumer_parts(),
        *_lane_parts(),
    )
}


# Processes that a lab need not have: the gentle load (`lab scale load 1`), a Grafana that LAB_GRAFANA names.
GUESTS: Final[dict[str, Part]] = {
    "load": Part(
        name="load",
        kind="service",
        gloss="a gentle load that keeps the pages alive",
        after=("orders",),
        module="loadtest.gentle",
        admin_port=192,
        memory_mb=200,
        replicable=True,
        optional=True,
    ),
    "grafana": Part(
        name="grafana",
        kind="grafana",
        gloss="the boards in a Grafana of one's own",
        port=32,
        memory_mb=600,
        optional=True,
    ),
}


class UnknownPart(LookupError):
    """A name that no part or process has; the message lists those that exist."""


def of_arms(publishers: Collection[str] = (DEFAULT_PUBLISHER,), consumers: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the parts of a lab with these arms; no consumer arms named: all of them.

    Raises UnknownPart for an arm that there is not.
    """
    for name, known in [(p, PUBLISHER_ARMS) for p in publishers] + [(c, CONSUMER_ARMS) for c in consumers]:
        if name not in known:
            raise UnknownPart(f"unknown arm {name!r}; the arms are: {', '.join(known)}")
    return tuple(
        name
        for name, part in PARTS.items()
        if (not part.publisher or part.publisher in publishers)
        and (not part.consumer or not consumers or part.consumer in consumers)
    )


def find(name: str) -> tuple[Part, int | None]:
    """The part of `relay`, `relay#1` or `orders`, and the replica if one is named.

    Raises UnknownPart for any other name.
    """
    base, hash_, number = name.partition("#")
    part = PARTS.get(base) or GUESTS.get(base)
    if part is None or (hash_ and not (part.replicable and number.isdecimal())):
        raise UnknownPart(f"unknown process {name!r}; the processes are: {', '.join(names())}")
    return part, int(number) if hash_ else None


def names() -> list[str]:
    """Process names as the table starts them."""
    return [part.instance(n) for part in PARTS.values() for n in range(part.replicas) if part.kind != "task"]
