"""Starts the suite's processes, waits until all are well, and stops them in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path

from farthing.cli.up.child import Child, Probe, Say
from farthing.cli.up.plan import ChildPlan, Listener
from farthing.kit.errors import FailedPrecondition, Unavailable

_GRACE_S = 15.0


def check_ports(listeners: Iterable[Listener]) -> None:
    """FailedPrecondition naming the first port that another program holds."""
    for listener in listeners:
        with socket.socket() as probe:
            # As servers do, so that connections of a suite that just ended are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listener.host, listener.port))
            except OSError as error:
                raise FailedPrecondition(
                    f"port {listener.port} on {listener.host} ({listener.purpose}) is taken: {error.strerror}; "
                    "stop the program that holds it, or choose others with --port or --network",
                    reason="PORT_TAKEN",
                    metadata={"port": str(listener.port), "purpose": listener.purpose},
                ) from None


class Supervisor:
    """Owns the processes of one suite."""

    def __init__(self, logs: Path, *, probe: Probe, say: Say) -> None:
        self._logs = logs
        self._probe = probe
        self._say = say
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def children(self) -> tuple[Child, ...]:
        """All that were started, in that order."""
        return tuple(self._children)

    def start(self, plans: Iterable[ChildPlan]) -> list[Child]:
        """Start these processes, all at once: none needs another to be there first.

        A child that was stopped may be started again: its new process takes its place.
        """
        started = [Child(plan, self._logs, probe=self._probe, say=self._say) for plan in plans]
        names = {child.plan.name for child in started}
        self._children = [child for child in self._children if child.plan.name not in names]
        self._children += started
        for child in started:
            child.start()
        return started

    async def wait_until_well(self, children: Iterable[Child], *, timeout_s: float) -> None:
        """Return when all are well. FailedPrecondition when one ends before, Unavailable when one takes too long."""
        waiting = {child.plan.name: child for child in children}
        tasks = [asyncio.create_task(_wait_for(child)) for child in waiting.values()]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*tasks)
        except TimeoutError:
            slow = [name for name, child in waiting.items() if not child.healthy.is_set()]
            words = waiting[slow[0]].last_words() if slow else ""
            raise Unavailable(
                f"{', '.join(slow)} not well after {timeout_s:g} s; last log line: {words}; "
                f"logs are in {self._logs}",
                reason="START_TIMEOUT",
            ) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Stop everything: entrances first, discovery last."""
        for stage in sorted({child.plan.stage for child in self._children}):
            await asyncio.gather(
                *(
                    child.stop(grace_s=_GRACE_S)
                    for child in self._children
                    if child.plan.stage == stage
                )
            )


async def _wait_for(child: Child) -> None:
    healthy = asyncio.ensure_future(child.healthy.wait())
    try:
        await asyncio.wait((healthy, child.ended_early), return_when=asyncio.FIRST_COMPLETED)
    finally:
        healthy.cancel()
    if not child.healthy.is_set():
        raise FailedPrecondition(
            f"{child.plan.name} did not start (status {child.ended_early.result()}): "
            f"{child.last_words() or 'it said nothing'}; log: {child.log_file}",
            reason="START_FAILED",
            metadata={"process": child.plan.name},
        )
