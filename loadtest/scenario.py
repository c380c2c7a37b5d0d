"""A scenario: load, faults, promises and what must have been put to the test, read from a TOML file and checked."""

import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from loadtest.data_faults import MAX_COUNT
from loadtest.data_faults import TOPICS as DATA_TOPICS
from loadtest.plan import Plan, Share, checked
from loadtest.shapes import Phase
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, Promise
from services.domain.verdict import Control, Terms, Verdict, promises_by_name
from services.failpoints.grammar import FailpointError, parse
from services.failpoints.names import DATA_FAULTS
from services.settings import SettingsError, read_settings
from services.stack.launch import PASSED_ON
from services.stack.parts import PARTS, UnknownPart, find, of_arms

FOLDER: Final = Path(__file__).parent / "scenarios"
OF_ARMS: Final = ("LAB_PUBLISHERS", "LAB_CONSUMERS")  # settings that say who is part of a lab: `arms` does
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]
Times = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class ScenarioError(ValueError):
    """A scenario that cannot be played; the message names the file and what is wrong."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """One line of the fault timeline: at a time, or `times` times in a window, where the seed says."""

    at_s: NonNegative | None = None
    between_s: tuple[NonNegative, NonNegative] | None = None
    times: Times = 1

    def __str__(self) -> str:
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name not in Step.__struct_fields__}
        words = [" ".join(v) if isinstance(v, tuple) else str(v) for v in values.values() if v not in (None, (), "")]
        return " ".join([str(self.__struct_config__.tag), *words])

    def contradiction(self) -> str:
        """What cannot be meant, or nothing."""
        if (self.at_s is None) == (self.between_s is None):
            return "say at_s, or between_s; not both"
        if self.between_s is not None and self.between_s[0] >= self.between_s[1]:
            return "between_s wants its begin before its end"
        if self.at_s is not None and self.times != 1:
            return "times goes with between_s"
        return self.wrong()

    def wrong(self) -> str:
        """What is wrong with its own words, or nothing."""
        return ""

    def drawn(self, draw: random.Random) -> Iterator[float]:
        """When it happens: one random time in each of `times` equal slices of its window."""
        if self.at_s is not None:
            yield self.at_s
        if self.between_s is not None:
            begin, end = self.between_s
            width = (end - begin) / self.times
            for number in range(self.times):
                yield round(begin + width * (number + draw.random()), 3)


class Arm(Step, frozen=True, kw_only=True, tag="arm"):
    """Arm a failpoint, for a while or until the load has ended."""

    failpoint: str
    action: str
    for_s: Positive | None = None

    def wrong(self) -> str:
        try:
            parse(self.failpoint, self.action)
        except FailpointError as error:
            return str(error)
        return ""


class _OfProcesses(Step, frozen=True, kw_only=True):
    processes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

    def wrong(self) -> str:
        for name in self.processes:
            try:
                find(name)
            except UnknownPart as error:
                return str(error)
        return ""


class Kill(_OfProcesses, frozen=True, kw_only=True, tag="kill"):
    """SIGKILL processes at once; with `hold_s` they stay down that long."""

    hold_s: Positive | None = None


class Freeze(_OfProcesses, frozen=True, kw_only=True, tag="freeze"):
    """SIGSTOP processes, and let them go on after `for_s`."""

    for_s: Positive


class Restart(_OfProcesses, frozen=True, kw_only=True, tag="restart"):
    """End processes in good order; they are started again."""


class Inject(Step, frozen=True, kw_only=True, tag="inject"):
    """Put bad records onto a topic."""

    kind: str
    topic: str = DATA_TOPICS[0]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 1

    def wrong(self) -> str:
        if self.kind not in DATA_FAULTS:
            return f"unknown data fault {self.kind!r}; the kinds are {', '.join(DATA_FAULTS)}"
        return "" if self.topic in DATA_TOPICS else f"unknown topic {self.topic!r}; say {' or '.join(DATA_TOPICS)}"


class _OfArm(Step, frozen=True, kw_only=True):
    arm: str

    def wrong(self) -> str:
        if self.arm in CONSUMER_ARMS:
            return ""
        return f"unknown arm {self.arm!r}; the consumer arms are {', '.join(CONSUMER_ARMS)}"


class Redrive(_OfArm, frozen=True, kw_only=True, tag="redrive"):
    """Redrive every parked letter of an arm."""

    force: bool = False


class Replay(_OfArm, frozen=True, kw_only=True, tag="replay"):
    """Copy what the run has on a topic so far to one arm again."""

    topic: str = DATA_TOPICS[0]


class DeleteOffsets(_OfArm, frozen=True, kw_only=True, tag="delete_offsets"):
    """Stop an arm, delete its group's committed offsets, start it again."""


AnyStep = Arm | Kill | Freeze | Restart | Inject | Redrive | Replay | DeleteOffsets


class Planned(msgspec.Struct, frozen=True):
    """A step and when it happens, in seconds from the load's begin."""

    at_s: float
    step: AnyStep


class Arms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes part, by name."""

    publishers: tuple[str, ...] = ("outbox",)
    consumers: tuple[str, ...] = tuple(CONSUMER_ARMS)
    replicas: Mapping[str, Annotated[int, msgspec.Meta(ge=1, le=8)]] = {}  # of parts, where it is not one


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent. `skew`: 1 is none; `customers`: how many keys there are."""

    phases: Annotated[tuple[Phase, ...], msgspec.Meta(min_length=1)]
    effects_share: Share | None = None
    refunds_share: Share = 0.1
    timeout_share: Share = 0.01
    reset_share: Share = 0.01
    customers: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500
    skew: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0

    @property
    def duration_s(self) -> float:
        return sum(phase.duration_s for phase in self.phases)


class Alerts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts must fire in this run, and which must not."""

    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


class Broken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must come out broken, or the run has not shown what it is about."""

    arm: str
    state: Literal["lost", "duplicated", "unexpected", "dead_lettered", "uncertain"]
    effect: str = ""  # any, where none is named
    hop: Literal["accept", "publish", "process", ""] = ""
    at_least: Annotated[int, msgspec.Meta(ge=1)] = 1


class Exercise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often, at least, what puts promises to the test must have been seen."""

    kills: int = 0
    freezes: int = 0
    redeliveries_due: int = 0
    dedup_hits: int = 0
    dead_letters: int = 0
    retries: int = 0
    injected: int = 0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario. Times are seconds from the load's begin."""

    teaches: str
    expect: Verdict = "PASS"  # what a run of the code as it is comes out as
    long: bool = False  # not for `make proof`
    seed: int | None = None  # for who names none; drawn otherwise
    drain_s: Positive = 60.0
    arms: Arms = Arms()
    settings: Mapping[str, float | int | str] = {}
    load: Load
    faults: tuple[AnyStep, ...] = ()
    promises: Mapping[str, tuple[Promise, ...]] | None = None  # by arm, or `accept`; all that are made by default
    must_break: tuple[Broken, ...] = ()
    must_exercise: Exercise = Exercise()
    without_control: str = ""  # why no arm breaks where the promises hold
    dead_letter_causes: tuple[str, ...] = ()
    alerts: Alerts = Alerts()
    name: str = ""  # the file's

    @property
    def environment(self) -> dict[str, str]:
        """The settings as LAB_ variables."""
        return {f"LAB_{name.upper()}": str(value) for name, value in self.settings.items()}

    def parts(self) -> tuple[str, ...]:
        """The parts of a lab that can play it."""
        return of_arms(self.arms.publishers, self.arms.consumers)

    def plan(self, run: str, seed: int) -> Plan:
        """The load's plan. Two plans of one seed differ in the run's id alone."""
        load = self.load
        planned = sum(phase.planned for phase in load.phases)
        return checked(
            Plan(
                run=run, seed=seed, rate=max(planned / load.duration_s, 1e-3), duration_s=load.duration_s,
                effects_share=load.effects_share, refunds_share=load.refunds_share, timeout_share=load.timeout_share,
                reset_share=load.reset_share, customers=load.customers, skew=load.skew, phases=load.phases,
            )
        )  # fmt: skip

    def fault_plan(self, seed: int) -> list[Planned]:
        """The timeline of a seed, in the order of the times."""
        draw = random.Random(f"faults {seed}")  # noqa: S311  # faults are to be repeatable, not secret
        planned = [Planned(at_s, step) for step in self.faults for at_s in step.drawn(draw)]
        return sorted(planned, key=lambda one: one.at_s)

    def terms(self) -> Terms:
        """What the verdict must know of it."""
        promises = self.promises
        return Terms(
            promises=None if promises is None else {name: frozenset(given) for name, given in promises.items()},
            controls=tuple(Control(**msgspec.structs.asdict(broken)) for broken in self.must_break),
            declared=frozenset(self.dead_letter_causes),
            without_control=self.without_control,
            exercise={name: many for name, many in msgspec.structs.asdict(self.must_exercise).items() if many},
        )


@cache
def alert_names() -> tuple[str, ...]:
    """What a scenario can say of alerts: that they must fire, or must not."""
    from dashboards import profiles, rules  # noqa: PLC0415  # the CLI starts without Grafana's models

    return tuple(dict.fromkeys(alert.name for alert in rules.alerts(profiles.DEMO)))


def names(folder: Path = FOLDER) -> list[str]:
    """The scenarios that there are."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def read(name: str, folder: Path = FOLDER) -> Scenario:
    """The scenario of this name, or of this path to a .toml file. Raises ScenarioError that says what is wrong."""
    file = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not name.endswith(".toml") and name not in names(folder):
        raise ScenarioError(f"unknown scenario {name!r}; the scenarios are: {', '.join(names(folder))}")
    try:
        return parse_scenario(file.read_text(), file.stem)
    except OSError as error:
        raise ScenarioError(f"{file}: {error.strerror}") from None
    except ScenarioError as error:
        raise ScenarioError(f"{file}: {error}") from None


def parse_scenario(text: str, name: str) -> Scenario:
    """Parse and check. Raises ScenarioError that names the field."""
    try:
        scenario = msgspec.structs.replace(msgspec.toml.decode(text, type=Scenario), name=name)
    except msgspec.DecodeError as error:
        raise ScenarioError(str(error)) from None
    for wrong in _wrong(scenario):
        raise ScenarioError(wrong)
    return scenario


def _wrong(scenario: Scenario) -> Iterator[str]:
    yield from _wrong_arms(scenario)
    yield from _wrong_settings(scenario.settings)
    try:
        scenario.plan("check", 1)
    except ValueError as error:
        yield f"load: {error}"
    for number, step in enumerate(scenario.faults, 1):
        if wrong := step.contradiction():
            yield f"faults, number {number}: {wrong}"
        yield from (f"faults, number {number}: {wrong}" for wrong in _not_there(step, scenario))
    yield from _wrong_promises(scenario)
    for broken in scenario.must_break:
        if broken.arm not in (*scenario.arms.publishers, *scenario.arms.consumers):
            yield f"must_break: the arm {broken.arm!r} does not take part"
    for alert in (*scenario.alerts.must, *scenario.alerts.must_not):
        if alert not in (known := alert_names()):
            yield f"alerts: unknown alert {alert!r}; the alerts are {', '.join(known)}"
    for alert in set(scenario.alerts.must) & set(scenario.alerts.must_not):
        yield f"alerts: {alert} cannot both have to fire and have to be silent"


def _wrong_arms(scenario: Scenario) -> Iterator[str]:
    for kind, given, known in (
        ("publishers", scenario.arms.publishers, PUBLISHER_ARMS),
        ("consumers", scenario.arms.consumers, CONSUMER_ARMS),
    ):
        for name in given:
            if name not in known:
                yield f"arms.{kind}: unknown arm {name!r}; the arms are {', '.join(known)}"
    for name in scenario.arms.replicas:
        if name not in PARTS or not PARTS[name].replicable or name not in scenario.parts():
            yield f"arms.replicas: {name!r} is no part of this lab that can have replicas"
    if "outbox" not in scenario.arms.publishers:
        yield "arms.publishers: outbox must be among them, the consumer arms read its topics"


def _wrong_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    known = [name.removeprefix("LAB_").lower() for name in PASSED_ON if name not in OF_ARMS]
    for name, value in settings.items():
        if name not in known:
            yield f"settings: unknown setting {name!r}; the settings are {', '.join(known)}"
        try:
            read_settings({f"LAB_{name.upper()}": str(value)})
        except SettingsError as error:
            yield f"settings: {error}"


def _not_there(step: AnyStep, scenario: Scenario) -> Iterator[str]:
    """Whom a step is about must be part of the lab."""
    if isinstance(step, _OfProcesses):
        for name in step.processes:
            if (part := name.partition("#")[0]) not in scenario.parts() and part not in ("postgres", "ledger", "kafka"):
                yield f"{name} does not take part"
    if isinstance(step, _OfArm) and step.arm not in scenario.arms.consumers:
        yield f"the arm {step.arm} does not take part"


def _wrong_promises(scenario: Scenario) -> Iterator[str]:
    made = promises_by_name(scenario.arms.publishers, [CONSUMER_ARMS[name] for name in scenario.arms.consumers])
    for name, promises in (scenario.promises or {}).items():
        if name not in made:
            yield f"promises: {name!r} does not take part; say one of {', '.join(made)}"
        elif lacking := set(promises) - made[name]:
            yield f"promises: {name} does not promise {', '.join(sorted(lacking))}"
