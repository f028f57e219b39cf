"""Starts an engine's process and ends it; and, in that process, begins to serve."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farthing.inference.process.rules import EngineRules
from farthing.inference.process.server import EngineServer, LoadedEngine

_TERMINATE_S = 5.0


@dataclass(eq=False, slots=True)
class Child:
    """A process and this side of the connection to it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def describe_end(self) -> str:
        """How it ended, for people; waits for it."""
        code = self.process.wait()
        if code >= 0:
            return f"exit status {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


def start_child(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> Child:
    """Run `python -m module FD arguments…`, where FD is the descriptor of its side of the connection."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
            pass_fds=[theirs.fileno()],
            env=None if environment is None else {**os.environ, **environment},
            stdin=subprocess.DEVNULL,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(process, ours)


def serve_child(
    descriptor: int,
    load: Callable[[], LoadedEngine],
    rules: EngineRules,
    *,
    memory_limit_bytes: int = 0,
) -> None:
    """The body of an engine's process: load, serve, end with the connection.

    Signals are the service's to handle: it closes the connection when it stops. `memory_limit_bytes` bounds the
    process's private memory, so that a leak ends this engine and not its machine; 0 does not.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if memory_limit_bytes:
        limit_memory(memory_limit_bytes)

    def load_for_good() -> LoadedEngine:
        engine = load()
        # What is alive now lives as long as the process; for the garbage collector to look at all of it again takes
        # longer than many a step.
        gc.collect()
        gc.freeze()
        return engine

    connection = socket.socket(fileno=descriptor)
    EngineServer(connection, rules).run(load_for_good)
    # Native libraries have threads and handlers of their own, and nothing here is left to save.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def limit_memory(limit_bytes: int) -> None:
    """Bounds this process's private memory from now on."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
