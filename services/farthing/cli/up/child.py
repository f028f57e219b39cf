"""One supervised process: started, watched, restarted with back-off, stopped; it dies with its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from farthing.cli.up.plan import ChildPlan

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 15.0
_LIVED_S = 30.0
_PROBE_EVERY_S = 0.1
_WATCH_EVERY_S = 2.0
# A process that has answered before and then fails this many probes in a row hangs.
_HANG_PROBE_COUNT = 10
_PR_SET_PDEATHSIG = 1

Probe = Callable[[ChildPlan], Awaitable[bool]]
Say = Callable[[str], None]


class Child:
    """Runs a ChildPlan's process until `stop`. Use on one event loop, from the main thread."""

    def __init__(self, plan: ChildPlan, logs: Path, *, probe: Probe, say: Say) -> None:
        self.plan = plan
        self.log_file = logs / f"{plan.name}.log"
        self.healthy = asyncio.Event()
        self.restart_count = 0
        self.ended_early: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Set to the exit status if the process ends before it was ever healthy."""
        self._probe = probe
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._ever_healthy = False

    @property
    def pid(self) -> int | None:
        """The running process, if it runs."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    @property
    def stopped(self) -> bool:
        """Whether `stop` has been called: it will not be started again."""
        return self._stopping

    @property
    def exit_status(self) -> int | None:
        """How the last process ended, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    def start(self) -> None:
        """Start it, and start it again whenever it ends."""
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.plan.name}")

    async def stop(self, *, grace_s: float) -> None:
        """SIGTERM, and SIGKILL to it and what it started when it is still there after `grace_s`."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            _signal(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), grace_s)
            except TimeoutError:
                self._say(f"{self.plan.name} did not stop within {grace_s:g} s; killing it")
        if process is not None:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def last_words(self) -> str:
        """The last line it logged that says something."""
        try:
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        plain = [line for line in lines if line.startswith("farthing ")]
        return (plain or lines or [""])[-1]

    async def _keep(self) -> None:
        delay_s = _FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started_s = loop.time()
            self._process = process = await self._spawn()
            watcher = asyncio.create_task(self._watch(process))
            status = await process.wait()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            self.healthy.clear()
            _signal_group(process.pid, signal.SIGKILL)  # what it started and left behind
            if self._stopping:
                return
            if not self._ever_healthy:
                if not self.ended_early.done():
                    self.ended_early.set_result(status)
                return
            if loop.time() - started_s > _LIVED_S:
                delay_s = _FIRST_DELAY_S
            self.restart_count += 1
            self._say(
                f"{self.plan.name} ended with status {status}; starting it again in {delay_s:g} s "
                f"(log: {self.log_file})"
            )
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        failures = 0
        while True:
            if await self._probe(self.plan):
                if not self.healthy.is_set() and self.restart_count:
                    self._say(f"{self.plan.name} is well again")
                self._ever_healthy = True
                self.healthy.set()
                failures = 0
            elif self.healthy.is_set():
                failures += 1
                if failures >= _HANG_PROBE_COUNT:
                    self._say(f"{self.plan.name} no longer answers; killing it")
                    _signal_group(process.pid, signal.SIGKILL)
                    return
            await asyncio.sleep(_WATCH_EVERY_S if self.healthy.is_set() else _PROBE_EVERY_S)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self.plan.command,
                env=dict(self.plan.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C reaches the supervisor alone, which stops the rest in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )


def _die_with_parent(parent_pid: int) -> Callable[[], None]:
    """What a child does before its program starts: ask the kernel to be killed when the supervisor is."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the supervisor died before the request
            os._exit(1)

    return prepare


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
