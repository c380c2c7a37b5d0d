"""A consumer of the user's own: a command line in any language that the lab starts, kills, freezes and restarts.

Its manifest says what it promises and where its offsets live; its effects go to the provider under its own account.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from services.broker.reader import Offsets, bounds
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, Promise
from services.stack import jars, kafka
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.jars import Jar
from services.stack.parts import GUESTS, Part
from services.storage.postgres import connect

# Java sources need a compiler, which a runtime has not: Eclipse's, one jar.
ECJ: Final = Jar("org.eclipse.jdt", "ecj", "3.43.0", "c786468c65e906498e7e36ece4e0d04c6d3dd34c9a61b34a3a5b512801911a82")
_TABLES: Final = Path(__file__).parent.parent / "payments" / "schema" / "common.sql"
_RESERVED: Final = ("public", "user", "all", "order", "table", "group", "default", "primary", "references")
_WAIT_S: Final = 10.0
_BUILD_S: Final = 120.0
_QUIET: Final = {"log_level": 0, "error_cb": lambda _: None}
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
PLACEHOLDERS: Final = {
    "here": "the manifest's folder",
    "out": "a folder of its own, for what a build makes",
    "python": "the lab's Python, with confluent-kafka, aiokafka and aiohttp",
    "java": "the lab's Java 25 runtime",
    "ecj": "Eclipse's Java compiler, a jar",
    "kafka_classpath": "the jars of Kafka, kafka-clients among them",
}

Words = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the lab must know of a consumer. Words of `command` and `build` may hold {placeholders}."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{1,30}\Z")]
    command: Words
    build: tuple[str, ...] = ()  # run before each run, in the manifest's folder
    gloss: str = "a consumer of your own"
    effects: Annotated[tuple[Literal["charge", "email"], ...], msgspec.Meta(min_length=1)] = ("charge",)
    promises: tuple[Promise, ...] = ()
    offsets: Literal["kafka", "own"] = "kafka"  # own: what is missing when the drain is over is lost
    environment: Mapping[str, str] = {}
    folder: str = ""  # the manifest's

    @property
    def arm(self) -> ConsumerArm:
        """The arm as the auditor judges it."""
        promised: dict[str, frozenset[Promise]] = {effect: frozenset(self.promises) for effect in self.effects}
        return ConsumerArm(self.name, self.gloss, promised, dead_letters=False)

    @property
    def part_name(self) -> str:
        return f"arm.{self.name}"


def read_manifest(file: Path) -> Manifest:
    """Read and check. Raises StackError that names the file and what is wrong."""
    try:
        manifest = msgspec.toml.decode(file.read_text(), type=Manifest)
    except OSError as error:
        raise StackError(f"{file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise StackError(f"{file}: {error}") from None
    if manifest.name in _RESERVED or manifest.name.startswith("pg_"):
        raise StackError(f"{file}: the name {manifest.name!r} is a word of SQL: choose another")
    if manifest.name in CONSUMER_ARMS or manifest.name in PUBLISHER_ARMS:
        raise StackError(f"{file}: the name {manifest.name!r} is taken by an arm of the lab")
    for word in (*manifest.command, *manifest.build, *manifest.environment.values()):
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                raise StackError(f"{file}: unknown placeholder {{{name}}}; there are {', '.join(PLACEHOLDERS)}")
    return msgspec.structs.replace(manifest, folder=str(file.resolve().parent))


def resolved(manifest: Manifest, home: Home) -> Manifest:
    """With every placeholder filled in; what is not there yet is fetched. Raises StackError."""
    out = home.run / "own" / manifest.name
    out.mkdir(parents=True, exist_ok=True)
    words = " ".join((*manifest.command, *manifest.build))
    values = {
        "here": manifest.folder,
        "out": str(out),
        "python": sys.executable,
        "java": str(kafka.java()) if "{java}" in words else "",
        "ecj": str(_ecj()) if "{ecj}" in words else "",
        "kafka_classpath": ":".join(map(str, sorted((jars.cache_dir() / "jars").glob("*.jar")))),
    }

    def fill(word: str) -> str:
        return _PLACEHOLDER.sub(lambda match: values[match[1]], word)

    return msgspec.structs.replace(
        manifest,
        command=tuple(map(fill, manifest.command)),
        build=tuple(map(fill, manifest.build)),
        environment={name: fill(value) for name, value in manifest.environment.items()},
    )


def _ecj() -> Path:
    folder = jars.cache_dir() / "ecj"
    if (folder / ECJ.file_name).exists():
        return folder / ECJ.file_name
    with jars.cache_lock(lambda _: None):
        return jars.install_one(ECJ, folder)


def build(manifest: Manifest) -> None:
    """Run the build of a resolved manifest. Raises StackError with what it said."""
    if not manifest.build:
        return
    try:
        done = subprocess.run(
            manifest.build, cwd=manifest.folder, capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"the build of {manifest.name} does not run: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise StackError(f"the build of {manifest.name} ends with code {done.returncode}:\n{said}")


def part(manifest: Manifest) -> Part:
    """Its row in the table of parts, known to `find` from now on."""
    made = Part(
        name=manifest.part_name,
        kind="own",
        gloss=manifest.gloss,
        arguments=manifest.command,
        memory_mb=1_000,
        replicable=True,
        consumer=manifest.name,
    )
    GUESTS[made.name] = made
    return made


def environment(manifest: Manifest, home: Home) -> dict[str, str]:
    """What the consumer is told: addresses, topics, group, account."""
    addresses = home.addresses()
    return {
        **{name: addresses[name] for name in ("LAB_KAFKA", "LAB_POSTGRES", "LAB_PROVIDER")},
        "LAB_TOPICS": ",".join(topic.name for topic in MAIN_TOPICS),
        "LAB_GROUP": manifest.arm.group,
        "LAB_ACCOUNT": manifest.name,
        "LAB_OUT": str(home.run / "own" / manifest.name),
        **manifest.environment,
    }


async def make_tables(postgres: str, arm: ConsumerArm) -> None:
    """A schema of its own in the database `payments`, with the tables that the auditor reads of every arm.

    Raises what asyncpg raises.
    """
    connection = await connect(postgres, "payments", name="own")
    try:
        await connection.execute("SET client_min_messages = warning")
        await connection.execute(_TABLES.read_text().replace("{schema}", arm.schema))  # the manifest's name was checked
    finally:
        await connection.close(timeout=1)


def start_here(bootstrap: str, arm: ConsumerArm) -> None:
    """Set the group to where the topics end now: it owes nothing of what was there before. Raises KafkaException."""
    set_offsets(bootstrap, arm.group, bounds(bootstrap, [topic.name for topic in MAIN_TOPICS]).ends)


def set_offsets(bootstrap: str, group: str, offsets: Offsets) -> None:
    """Commit offsets for a group without members. Raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    places = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
    (done,) = admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, places)], request_timeout=_WAIT_S
    ).values()
    for place in done.result().topic_partitions:
        if place.error is not None:
            raise KafkaException(place.error)


def has_members(bootstrap: str, group: str) -> bool:
    """Whether the group is at work: that is when its consumer is ready. Never raises."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    try:
        described = admin.describe_consumer_groups([group], request_timeout=_WAIT_S)[group].result()
    except KafkaException:
        return False
    return bool(described.members) and described.state == ConsumerGroupState.STABLE
