"""One managed process: started when its dependencies are ready, probed, restarted when it ends, killed and frozen."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import psutil

from services.stack.launch import Launch
from services.stack.logfiles import keep_bounded
from services.stack.parts import Part
from services.stack.spawn import child_setup, unprivileged
from services.telemetry.logs import Log

# away: nobody can say, because its keeper does not answer (a process in a container)
State = Literal[
    "waiting", "starting", "ready", "unready", "frozen", "held", "restarting", "failed", "done", "stopped", "away"
]

RESTART_DELAY_S: Final = 2.0  # two scrapes at least: a metric that rose before the death is seen, and `up` is 0 once
CRASHES_ALLOWED: Final = 5  # within CRASH_WINDOW_S, beyond the kills that somebody ordered
CRASH_WINDOW_S: Final = 60.0
PROBE_EVERY_S: Final = 1.0
PROBE_STARTING_S: Final = 0.1
FAMILIES: Final = ("postgres", "own")  # what they start does their work
FAMILY_EVERY: Final = 10  # samples: to find them, every process of the machine is looked at


class Managed(Protocol):
    """What the supervisor knows of a process and can do to it, wherever it runs."""

    part: Part
    replica: int
    name: str
    state: State
    restarts: int
    pid: int | None
    rss_bytes: int
    why: str

    @property
    def ready(self) -> bool: ...
    def why_not(self, action: str) -> str:
        """Why the action cannot be done to it now; empty when it can."""

    async def look(self) -> None:
        """Make sure that what is known of it is as it is now."""

    async def run(self, dependencies: Callable[[], bool]) -> None: ...
    async def kill(self, *, hold: bool) -> object: ...
    async def freeze(self) -> object: ...
    async def thaw(self) -> object: ...
    async def restart(self) -> None: ...
    async def expect_death(self) -> None: ...
    async def end(self) -> None: ...
    def sample(self) -> None: ...


def why_not(process: Managed, action: str) -> str:
    """Why the action cannot be done to a process in the state in which it is; empty when it can."""
    if action == "thaw" and process.state != "frozen":
        return f"{process.name} is not frozen (it is {process.state})"
    if action == "freeze" and process.state == "frozen":
        return f"{process.name} is frozen already"
    if process.pid is None and not (action == "restart" and process.state in ("held", "failed")):
        return f"{process.name} is not running (it is {process.state})"
    return ""


class Child:
    """A process of the lab, over all its incarnations."""

    def __init__(
        self, part: Part, replica: int, launch: Launch, log_file: Path, log: Log, probe: Callable[[], Awaitable[bool]]
    ) -> None:
        self.part = part
        self.replica = replica
        self.name = part.instance(replica)
        self.state: State = "waiting"
        self.restarts = 0
        self.pid: int | None = None
        self.rss_bytes = 0  # as of the last sample; of a family with what its members do not share
        self._members_bytes = 0
        self._samples = 0
        self.why = ""  # it is restarting, held or failed
        self._launch = launch
        self._log_file = log_file
        self._log = log
        self._probe = probe
        self._ordered = False  # the next exit was asked for: it does not count as a crash
        self._hold = False  # after the next exit it stays down
        self._cause = ""  # of the next exit, where the supervisor knows better than the exit code
        self._ending = False
        self._wake = asyncio.Event()  # cuts short the wait before a restart
        self._exited = asyncio.Event()  # set while no process runs
        self._exited.set()
        self._over = asyncio.Event()  # nothing will be started any more
        self._crashes: deque[float] = deque(maxlen=CRASHES_ALLOWED + 1)

    @property
    def ready(self) -> bool:
        return self.state in ("ready", "done")

    def why_not(self, action: str) -> str:
        return why_not(self, action)

    async def look(self) -> None:
        """It is known: this is who starts it and waits for its end."""

    async def run(self, dependencies: Callable[[], bool]) -> None:
        """Keep the process running until `end` is called or a task is done."""
        try:
            while not dependencies() and not self._ending:  # noqa: ASYNC110  # states of several children
                await asyncio.sleep(0.05)
            while not self._ending:
                code = await self._live_once()
                if self.part.kind == "task" and code == 0:
                    self.state = "done"
                    return
                await self._wait_for_restart()
                self.restarts += 1
            self.state = "stopped"
        finally:
            self._over.set()

    async def _live_once(self) -> int | None:
        """One incarnation, from start to exit; returns the exit code (negative: the signal), None without a start."""
        try:
            process = await self._spawn()
        except (OSError, subprocess.SubprocessError) as error:
            # a binary is missing, the disk is full, no more processes are allowed: counts as a crash
            self._event("part.not_started", level="warning", why=f"{error}")
            self._after_exit(f"could not be started ({error})")
            return None
        self._exited.clear()
        self.pid, self.state = process.pid, "starting"
        self._event("part.started", pid=process.pid)
        watch = asyncio.create_task(self._watch_readiness())
        try:
            code = await process.wait()
        finally:
            watch.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left behind
            self.pid, self.rss_bytes, self._members_bytes, self._samples = None, 0, 0, 0
            self._exited.set()
        expected = self._ordered or (self.part.kind == "task" and code == 0)
        self._event("part.exited", level="info" if expected else "warning", code=code)
        self._after_exit(self._cause or _in_words(code))
        return code

    async def _spawn(self) -> asyncio.subprocess.Process:
        command, death_signal = self._launch.command, self._launch.death_signal
        if self._launch.unprivileged:
            command = unprivileged(command, death_signal)
        with self._log_file.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                env=self._launch.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=child_setup(death_signal),  # forked from the main thread, whose end the death signal awaits
            )

    async def _watch_readiness(self) -> None:
        while self.part.kind != "task":
            if self.state != "frozen" and not self._ordered:  # its end is no news
                self._probed(await self._ask())
            await asyncio.sleep(PROBE_STARTING_S if self.state == "starting" else PROBE_EVERY_S)

    async def _ask(self) -> bool:
        try:
            return await self._probe()
        except Exception as error:  # whatever it is: the process is not ready, and the watch must go on
            self._event("part.unready", level="warning", why=f"its probe failed: {error!r}")
            return False

    def _probed(self, ready: bool) -> None:
        if self.state == "frozen" or self._ordered:
            return  # frozen or killed while the probe was out: its answer is no news
        before = self.state
        self.state = "ready" if ready else "starting" if before == "starting" else "unready"
        if self.state != before:
            self.sample()  # who sees it ready sees its size
            self._event("part.unready" if self.state == "unready" else "part.ready")

    def _after_exit(self, how: str) -> None:
        """Decide what comes next: a restart, or staying down until somebody orders one."""
        ordered, hold = self._ordered, self._hold
        self._ordered, self._hold, self._cause = False, False, ""
        if self._ending:
            return
        if hold:
            self.state, self.why = "held", f"killed and held down: `lab restart {self.name}` starts it"
        elif not ordered and self._crashed_too_often():
            self.state = "failed"
            self.why = f"{how}, {len(self._crashes)} times within {CRASH_WINDOW_S:g} s: see `lab logs {self.name}`"
            self._event("part.failed", level="error", why=self.why)
        else:
            self.state, self.why = "restarting", how

    def _crashed_too_often(self) -> bool:
        now = time.monotonic()
        self._crashes.append(now)
        return len(self._crashes) > CRASHES_ALLOWED and self._crashes[0] > now - CRASH_WINDOW_S

    async def _wait_for_restart(self) -> None:
        delay_s = RESTART_DELAY_S if self.state == "restarting" else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), delay_s)
        if not self._ending:
            self._wake.clear()

    async def expect_death(self) -> None:
        """The next exit is somebody's order (a failpoint's kill): it does not count as a crash."""
        self._ordered = True

    async def kill(self, *, hold: bool) -> int:
        """SIGKILL the whole tree at once; with `hold`, it stays down until `restart`. Returns the pid.

        Raises ProcessLookupError when it is not running.
        """
        pid = self._running_pid()
        self._ordered, self._hold = True, hold
        self._signal_tree(signal.SIGKILL)
        return pid

    async def freeze(self) -> int:
        """SIGSTOP the whole tree (Postgres is many processes). Raises ProcessLookupError when it is not running."""
        pid = self._running_pid()
        self._signal_tree(signal.SIGSTOP)
        self.state = "frozen"
        return pid

    async def thaw(self) -> int:
        """SIGCONT the whole tree. Raises ProcessLookupError when it is not frozen."""
        pid = self._running_pid()
        if self.state != "frozen":
            raise ProcessLookupError(f"{self.name} is not frozen (it is {self.state})")
        self._signal_tree(signal.SIGCONT)
        self.state = "unready"
        return pid

    async def restart(self) -> None:
        """End the process in good order, to be started again; one that is held or has failed starts at once.

        Raises ProcessLookupError when there is nothing to restart (it waits for its dependencies, or starts anyway).
        """
        if self.state in ("held", "failed"):
            self._crashes.clear()
            self._wake.set()
        else:
            self._running_pid()
            await self.terminate()

    async def terminate(self) -> None:
        """Ask the process to end, and make it when it does not within its time-out. It is restarted unless ending."""
        if self.pid is None:
            return
        self._ordered = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, self._launch.stop_signal)
        if self.state == "frozen":
            self._signal_tree(signal.SIGCONT)
        try:
            await asyncio.wait_for(self._exited.wait(), self._launch.stop_timeout_s)
        except TimeoutError:
            self._event("part.killed", level="warning", why="it did not end when asked to")
            self._signal_tree(signal.SIGKILL)
            await self._exited.wait()

    async def end(self) -> None:
        """End for good; returns when nothing is left and nothing will be started."""
        self._ending = True
        self._wake.set()
        while not self._over.is_set():
            await self.terminate()  # one that was just being started has something to end a moment later
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 0.05)

    def sample(self) -> None:
        """Look at its size and its log, once a second: over its memory bound it is killed, like any crash."""
        with contextlib.suppress(OSError):
            keep_bounded(self._log_file)
        if self.pid is None:
            return
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.pid)
            if self.part.kind in FAMILIES and self._samples % FAMILY_EVERY == 0:
                self._members_bytes = sum(map(_unshared_bytes, root.children(recursive=True)))
            self.rss_bytes = int(root.memory_info().rss) + self._members_bytes
        self._samples += 1
        if self.rss_bytes >> 20 > self.part.resident_bound_mb and not self._cause:
            self._cause = f"killed at {self.rss_bytes >> 20} MiB, its bound is {self.part.resident_bound_mb} MiB"
            self._event("part.killed", level="error", why=self._cause)
            self._signal_tree(signal.SIGKILL)

    def _running_pid(self) -> int:
        if self.pid is None:
            raise ProcessLookupError(f"{self.name} is not running (it is {self.state})")
        return self.pid

    def _signal_tree(self, number: signal.Signals) -> None:
        """Signal the process and all that it started: stopped first, so that it starts no more meanwhile."""
        if self.pid is None:
            return
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.pid)
            if number != signal.SIGCONT:
                root.send_signal(signal.SIGSTOP)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)

    def _event(self, name: str, /, level: str = "info", **fields: Any) -> None:
        """Log; a full disk must not end the supervision, and what is lost here is in `lab status`, too."""
        with contextlib.suppress(OSError):
            self._log.event(name, level=level, part=self.name, **fields)


def _unshared_bytes(member: psutil.Process) -> int:
    """Its anonymous memory (RssAnon, proc(5)): Postgres's backends share the rest; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{member.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def _in_words(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
