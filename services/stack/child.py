"""One managed process: started when its dependencies are ready, probed, restarted when it ends, killed and frozen."""

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import psutil

from services.stack.launch import Launch
from services.stack.parts import Part
from services.stack.spawn import child_setup
from services.telemetry.logs import Log

State = Literal["waiting", "starting", "ready", "unready", "frozen", "held", "restarting", "failed", "done", "stopped"]

RESTART_DELAY_S: Final = 2.0  # two scrapes at least: a metric that rose before the death is seen, and `up` is 0 once
CRASHES_ALLOWED: Final = 5  # within CRASH_WINDOW_S, beyond the kills that somebody ordered
CRASH_WINDOW_S: Final = 60.0
PROBE_EVERY_S: Final = 1.0
PROBE_STARTING_S: Final = 0.1
LOG_BOUND: Final = 50 * 1024 * 1024


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
        self.why = ""  # of the state, where it needs one
        self.exited = asyncio.Event()  # set while no process runs
        self.exited.set()
        self._launch = launch
        self._log_file = log_file
        self._log = log
        self._probe = probe
        self._ordered = False  # the next exit was asked for: it does not count as a crash
        self._ending = False
        self._held = asyncio.Event()
        self._held.set()
        self._crashes: deque[float] = deque(maxlen=CRASHES_ALLOWED + 1)

    @property
    def ready(self) -> bool:
        return self.state in ("ready", "done")

    async def run(self, dependencies: Callable[[], bool]) -> None:
        """Keep the process running until `end` is called, it fails for good, or a task is done."""
        while not dependencies():  # noqa: ASYNC110  # states of several children: polling is the simplest that is right
            await asyncio.sleep(0.05)
        while not self._ending:
            await self._held.wait()
            if self._ending:
                break
            code = await self._live_once()
            if self.part.kind == "task" and code == 0:
                self.state = "done"
                return
            if self._ending:
                break
            if not self._may_restart(code):
                return
            await asyncio.sleep(RESTART_DELAY_S)
            self.restarts += 1
        self.state = "stopped"

    async def _live_once(self) -> int:
        """One incarnation, from start to exit; returns the exit code (negative: the signal)."""
        self._rotate_log()
        setup = child_setup(self._launch.death_signal, unprivileged=self._launch.unprivileged)
        with self._log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self._launch.command,
                env=self._launch.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=setup,  # forked from the main thread: its end is what the death signal waits for
            )
        self.exited.clear()
        self.pid = process.pid
        self.state = "starting"
        self._log.event("part.started", part=self.name, pid=process.pid)
        watch = asyncio.create_task(self._watch_readiness())
        try:
            code = await process.wait()
        finally:
            watch.cancel()
            self.pid = None
            self.exited.set()
        self._log.event("part.exited", level="info" if self._ordered else "warning", part=self.name, code=code)
        return code

    async def _watch_readiness(self) -> None:
        while True:
            if self.part.kind != "task" and self.state != "frozen":
                ready = await self._probe()
                self._probed(ready)
            await asyncio.sleep(PROBE_EVERY_S if self.state == "ready" else PROBE_STARTING_S)

    def _probed(self, ready: bool) -> None:
        if self.state != "frozen":  # frozen while the probe was out: its answer is no news
            was_ready = self.state in ("ready", "unready")
            self.state = "ready" if ready else "unready" if was_ready else "starting"

    def _may_restart(self, code: int) -> bool:
        """Whether the process is started again after this exit; sets the state that is shown meanwhile."""
        if not self._held.is_set():
            self.state, self.why = "held", "killed and held down; `lab restart` starts it"
            self._ordered = False
            return True
        if not self._ordered:
            self._crashes.append(time.monotonic())
            recent = [t for t in self._crashes if t > time.monotonic() - CRASH_WINDOW_S]
            if len(recent) > CRASHES_ALLOWED:
                self.state = "failed"
                self.why = f"ended {len(recent)} times within {CRASH_WINDOW_S:g} s, last with code {code}"
                self._log.event("part.failed", level="error", part=self.name, why=self.why)
                return False
        self._ordered = False
        self.state, self.why = "restarting", f"ended with code {code}"
        return True

    def expect_death(self) -> None:
        """The next exit is somebody's order (a failpoint's kill): it does not count as a crash."""
        self._ordered = True

    def kill(self, *, hold: bool) -> int:
        """SIGKILL the whole tree at once; with `hold`, it is not started again until `release`. Returns the pid.

        Raises ProcessLookupError when it is not running.
        """
        pid = self._running_pid()
        self._ordered = True
        if hold:
            self._held.clear()
        self._signal_tree(signal.SIGKILL)
        return pid

    def freeze(self) -> int:
        """SIGSTOP the whole tree (Postgres is many processes). Raises ProcessLookupError when it is not running."""
        pid = self._running_pid()
        self._signal_tree(signal.SIGSTOP)
        self.state = "frozen"
        return pid

    def thaw(self) -> int:
        """SIGCONT the whole tree. Raises ProcessLookupError when it is not frozen."""
        pid = self._running_pid()
        if self.state != "frozen":
            raise ProcessLookupError(f"{self.name} is not frozen (it is {self.state})")
        self._signal_tree(signal.SIGCONT)
        self.state = "unready"
        return pid

    def release(self) -> None:
        """Let a held process start again."""
        self._held.set()

    @property
    def held(self) -> bool:
        return not self._held.is_set()

    async def terminate(self) -> None:
        """Ask the process to end, and make it when it does not within its time-out. It is restarted unless ending."""
        if self.pid is None:
            return
        self._ordered = True
        self._signal_tree(signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, self._launch.stop_signal)
        try:
            await asyncio.wait_for(self.exited.wait(), self._launch.stop_timeout_s)
        except TimeoutError:
            self._log.event("part.killed", level="warning", part=self.name, why="it did not end when asked to")
            self._signal_tree(signal.SIGKILL)
            await self.exited.wait()

    async def end(self) -> None:
        """End for good."""
        self._ending = True
        self._held.set()
        await self.terminate()
        if self.state not in ("done", "failed"):
            self.state = "stopped"

    def rss_bytes(self) -> int:
        """Resident size of the process itself (Postgres's children share most of theirs)."""
        if self.pid is None:
            return 0
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _running_pid(self) -> int:
        if self.pid is None:
            raise ProcessLookupError(f"{self.name} is not running (it is {self.state})")
        return self.pid

    def _signal_tree(self, number: signal.Signals) -> None:
        if self.pid is None:
            return
        try:
            root = psutil.Process(self.pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._log_file.stat().st_size > LOG_BOUND:
                self._log_file.replace(self._log_file.with_suffix(".log.1"))
