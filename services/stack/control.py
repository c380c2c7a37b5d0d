"""Bringing a lab up and down from a shell: checks, downloads, the detached supervisor, waiting."""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from services.failpoints.grammar import Armed, FailpointError, parse_all
from services.stack import alertmanager, aot, grafana, jars, kafka, postgres, prometheus, zipkin
from services.stack.checks import problems
from services.stack.client import NotUp, Refused, call, status
from services.stack.debian import ALERTMANAGER, PACKAGES
from services.stack.errors import StackError
from services.stack.home import SUPERVISOR, Home
from services.stack.launch import order_of_start
from services.stack.parts import PARTS

UP_TIMEOUT_S: Final = 300.0  # usually 20 s; what will not be ready is said at once
SUPERVISOR_TIMEOUT_S: Final = 60.0
DOWN_TIMEOUT_S: Final = 60.0
_PROGRAMS: Final = ("postgres", "java", "prometheus", *ALERTMANAGER.programs, "grafana", "initdb")
SWEEP_GRACE_S: Final = 3.0  # Postgres ends by itself when its supervisor dies: better than to kill it
Say = Callable[[str], None]


def up(
    home: Home, *, faults: bool, seed: int, only: tuple[str, ...] = (), guests: tuple[str, ...] = (),
    settings: Mapping[str, str] = {}, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """Bring the lab (or `only` these parts and what they need) up; returns its status. Nothing to do when it is up.

    `guests`: what is to be started beside them. `settings`: LAB_ variables for its processes, besides those of the
    environment.

    A start that fails or is interrupted leaves no process and no port: only the data folder and the logs.
    Raises StackError that says what to do when it cannot, and FailpointError when LAB_FAILPOINTS is wrong.
    """
    wanted = order_of_start(only)  # an unknown name is said before anything starts
    armed = _armed_at_start(faults=faults)
    home.create()
    with _alone(home, say):
        before = status(home)
        if before["state"] != "down":
            _check_running(before, wanted, faults=faults)
            say("it is up already: nothing is changed")
            if armed:
                say("LAB_FAILPOINTS is read when a lab starts: `lab fault arm` arms in a running one")
            if missing := set(guests) - {process["name"] for process in before["processes"]}:
                say(f"it is up without {', '.join(sorted(missing))}: `lab down` first, then `lab up`")
            return _wait_until_up(home, say, quiet=True)
        with _start(home, wanted, guests=guests, faults=faults, seed=seed, only=only, settings=settings, say=say):
            return _wait_until_up(home, say)


def _armed_at_start(*, faults: bool) -> tuple[Armed, ...]:
    """What the environment asks to be armed, for the supervisor to do: checked before anything starts."""
    armed = parse_all(os.environ.get("LAB_FAILPOINTS", ""))
    if armed and not faults:
        raise FailpointError(
            "LAB_FAILPOINTS arms failpoints in a lab without faults: say `lab up --faults`, or unset it"
        )
    return armed


@contextlib.contextmanager
def _alone(home: Home, say: Say) -> Iterator[None]:
    """One `lab up` at a time: the second would take the first one's children for leftovers."""
    with (home.run / "up.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another `lab up` is at work here: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_running(now: dict[str, Any], wanted: list[str], *, faults: bool) -> None:
    if faults and not now["faults"]:
        raise StackError("the lab is up without faults: `lab down` first, then `lab up --faults`")
    if lacking := [name for name in wanted if name not in now["parts"]]:
        raise StackError(f"the lab is up without {', '.join(lacking)}: `lab down` first, then `lab up`")


@contextlib.contextmanager
def _start(
    home: Home, wanted: list[str], *, guests: tuple[str, ...], faults: bool, seed: int, only: tuple[str, ...],
    settings: Mapping[str, str], say: Say,
) -> Iterator[None]:  # fmt: skip
    """Start the supervisor for as long as the block takes, and for good when the block ends without an error.

    The supervisor holds a leash: a pipe of which it sees the end when this process dies, however it dies.
    """
    if home.hosts:
        raise StackError("the supervisor of this lab does not run: `docker compose up --wait` starts its container")
    _sweep(home, say)
    if found := problems(home, [*wanted, *guests]):
        raise StackError("\n".join(found))
    install(say)
    _initialise(home, wanted, say)
    prometheus.write_configuration(home, wanted)
    alertmanager.write_configuration(home)
    if guests:
        grafana.write_configuration(home)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb", buffering=0) as leash:
        try:
            _spawn_supervisor(
                home, reader, wanted, guests=guests, faults=faults, seed=seed, only=only, settings=settings
            )  # fmt: skip
            yield
            leash.write(b"up")
        except BaseException as error:
            leash.close()
            down(home, lambda _: None)
            if isinstance(error, StackError):
                raise StackError(f"{error}\nnothing was left running; the logs are in {home.logs}") from error
            raise


def _spawn_supervisor(
    home: Home, leash: int, wanted: list[str], *, guests: tuple[str, ...], faults: bool, seed: int,
    only: tuple[str, ...], settings: Mapping[str, str],
) -> None:  # fmt: skip
    environment = {
        **os.environ,
        **settings,
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        "LAB_HOME": str(home.path),
        "LAB_PORT_BASE": str(home.port_base),
        "LAB_FAULTS": "1" if faults else "0",
        "LAB_SEED": str(seed),
        "LAB_ONLY": ",".join(only),
        "LAB_GUESTS": ",".join(guests),
        "LAB_PUBLISHERS": ",".join(sorted({PARTS[name].publisher for name in wanted} - {""})),
        "LAB_CONSUMERS": ",".join(sorted({PARTS[name].consumer for name in wanted} - {""})),
        "LAB_LEASH": str(leash),
    }
    out = home.logs / "supervisor.out"
    with out.open("wb") as output:
        # All three streams away from the caller's: a daemon that keeps them hangs every caller that captures them.
        process = subprocess.Popen(
            [sys.executable, "-m", SUPERVISOR], env=environment, pass_fds=[leash],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + SUPERVISOR_TIMEOUT_S
    while home.read_state() is None:
        if process.poll() is not None or time.monotonic() > deadline:
            said = out.read_text().strip().splitlines() or ["nothing"]
            raise StackError(f"the supervisor did not start; it said: {said[-1]}")
        time.sleep(0.02)


def install(say: Say) -> None:
    """Fill the cache: Kafka's jars, its class file, Prometheus where it can be had, Zipkin."""
    with jars.cache_lock(say):
        if jars.missing(jars.cache_dir() / "jars"):
            say("downloading Kafka (44 MB, once; interrupted, it goes on where it stopped)")
            jars.install(
                lambda done, total: say(f"  jar {done} of {total}") if done % 8 == 0 or done == total else None
            )
        if aot.find() is None:
            _link_kafka(say)
        for package in PACKAGES:
            if package.find() is not None:
                continue
            if package.can_install():
                say(f"unpacking {package.name} from Debian's package ({package.megabytes} MB, once)")
                package.install()
            if package.find() is None:
                say(package.how_to)
        if zipkin.find() is None:
            _install_zipkin(say)


def _link_kafka(say: Say) -> None:
    say("loading Kafka's classes for faster starts (15 s, once)")
    try:
        aot.make(PARTS["kafka"].memory_mb)
    except (StackError, OSError) as error:  # it starts as ever
        say(f"Kafka's starts stay slow: {error}")


def _install_zipkin(say: Say) -> None:
    say("downloading Zipkin (86 MB, once)")
    try:
        zipkin.install(lambda done, total: say(f"  {done // 10**6} of {total // 10**6} MB"))
    except StackError as error:  # the lab goes on without its page
        say(f"{error}\n{zipkin.HOW_TO}")


def _initialise(home: Home, wanted: list[str], say: Say) -> None:
    """Make what is missing of both clusters and the log folder, all at once."""
    servers = [name for name in wanted if PARTS[name].kind == "postgres"]
    if not (home.data / "kafka").exists():
        say("making the databases and the log folder (once)")
    password = home.secret("postgres")
    with ThreadPoolExecutor() as workers:
        made = [workers.submit(postgres.initialise, home.data / name, password) for name in servers]
        if "kafka" in wanted:
            made.append(workers.submit(_initialise_kafka, home))
        for future in made:
            future.result()


def _initialise_kafka(home: Home) -> None:
    broker = PARTS["kafka"]
    settings = kafka.properties(home.data / "kafka", home.bind, home.port(broker.port), home.port(broker.second_port))
    kafka.initialise(home.data / "kafka", home.run, jars.cache_dir() / "jars", settings, *aot.options())


def _wait_until_up(home: Home, say: Say, *, quiet: bool = False) -> dict[str, Any]:
    """Wait until every part is ready; says which became so, or at once why one will not be."""
    said: set[tuple[str, str]] = set()
    deadline = time.monotonic() + UP_TIMEOUT_S
    while True:
        now = status(home)
        for process in now["processes"]:
            if not quiet and (text := _news(process)) and (process["name"], text) not in said:
                said.add((process["name"], text))
                say(f"  {text}")
        waited_for = [p for p in now["processes"] if not p["ready"] and not _is_given_up(p)]
        if stuck := [p for p in waited_for if p["state"] in ("failed", "held", "frozen")]:
            raise StackError("\n".join(_why(p) for p in stuck))
        if now["processes"] and not waited_for:
            return now
        if now["state"] == "down":
            raise StackError("the lab was ended while it was starting; see `lab logs supervisor`")
        if time.monotonic() > deadline:
            late = ", ".join(f"{p['name']} ({p['state']})" for p in waited_for)
            raise StackError(f"not ready after {UP_TIMEOUT_S:g} s: {late}; see `lab logs NAME`")
        time.sleep(0.1)


def _news(process: dict[str, Any]) -> str:
    if process["ready"]:
        return f"ready: {process['name']}"
    if process["state"] == "restarting":
        return f"{process['name']} {process['why']}, it is started again: see `lab logs {process['name']}`"
    return _why(process) if _is_given_up(process) else ""


def _is_given_up(process: dict[str, Any]) -> bool:
    """The lab goes on without an optional part that does not start; that it does is said."""
    return bool(process["optional"]) and process["state"] == "failed"


def _why(process: dict[str, Any]) -> str:
    return f"{process['name']} " + (process["why"] or f"is {process['state']}: `lab thaw {process['name']}`")


def down(home: Home, say: Say) -> bool:
    """Bring the lab down, waiting until no process and no port is left. Returns whether there was anything to end.

    Raises StackError when the supervisor does not end, and when it is not ours to end.
    """
    if home.hosts:
        raise StackError("this lab runs in containers: `docker compose down`, on your machine, ends them")
    if (supervisor := _supervisor(home)) is None:
        return _sweep(home, say)
    timeout_s = DOWN_TIMEOUT_S
    try:
        call(home, "POST", "/shutdown", timeout_s=5)
    except (NotUp, Refused) as error:
        say(f"ending the supervisor (pid {supervisor.pid}) by force: {error}")
        timeout_s = 0.0
    if psutil.wait_procs([supervisor], timeout=timeout_s)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor.kill()  # its children die with it
        if psutil.wait_procs([supervisor], timeout=5)[1]:
            raise StackError(f"the supervisor (pid {supervisor.pid}) does not end; see `lab logs supervisor`")
    _sweep(home, say)
    return True


def _supervisor(home: Home) -> psutil.Process | None:
    state = home.read_state()
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(state["pid"])) if state else None
    return None


def _sweep(home: Home, say: Say) -> bool:
    """End what an unclean stop left behind; says what. Returns whether there was anything."""
    file = home.run / "supervisor.json"
    if unclean := file.exists():
        say("the last lab here did not end cleanly: looking for what it left behind")
    leftover = [p for p in psutil.process_iter() if p.pid != os.getpid() and _belongs_to(p, home)]
    for process in psutil.wait_procs(leftover, timeout=SWEEP_GRACE_S)[1]:
        with contextlib.suppress(psutil.Error):
            say(f"  ending {process.name()} (pid {process.pid}), left behind by an earlier lab here")
            tree = [process, *process.children(recursive=True)]
            for one in tree:
                one.kill()
            psutil.wait_procs(tree, timeout=5)
    file.unlink(missing_ok=True)
    return unclean or bool(leftover)


def _belongs_to(process: psutil.Process, home: Home) -> bool:
    """Only what the supervisor started: servers with a file of this folder in their command line, or services."""
    try:
        words = process.cmdline()
        folders = (f"{home.data}/", f"{home.run}/")
        if any(folder in word for word in words for folder in folders):
            return words[0].rpartition("/")[2] in _PROGRAMS
        is_service = len(words) > 2 and words[1] == "-m" and words[2].startswith("services.")
        return is_service and process.environ().get("LAB_HOME") == str(home.path)
    except (psutil.Error, OSError):
        return False
