"""Runs a Python module in a process of its own: bounded in time, heard line by line, gone when we stop listening."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a process ended: its status, negative for a signal; whether its time was up; its last line of errors."""

    status: int
    timed_out: bool
    last_words: str


def run_module(
    module: str, arguments: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]
) -> ChildEnd:
    """Runs `python -m module arguments`; `on_line` hears each line of its output. What it raises ends the process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            errors="replace",
        )
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                on_line(line.rstrip("\n"))
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4_000))
        words = errors.read().decode(errors="replace").strip().splitlines()
    return ChildEnd(process.returncode, timed_out.is_set(), words[-1][:500] if words else "")
