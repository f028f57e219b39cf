"""Run set-up steps: one line each with its elapsed time, full output in a log, and on failure what to do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
LOG_PATH = ROOT / "build" / "setup.log"
TAIL_LINE_COUNT = 25
HEARTBEAT_S = 30.0
HEARTBEAT_TAIL_BYTES = 4096


def fail(problem: str, remedy: str) -> NoReturn:
    """Stop set-up, naming the problem and the one thing to do about it."""
    sys.exit(f"\nset-up stopped: {problem}\n  what to do: {remedy}")


def shared_cache() -> Path:
    """The cache outside the checkout, so that a fresh clone on the same machine starts warm."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "farthing"


def read_tail(path: Path, line_count: int = TAIL_LINE_COUNT) -> str:
    """The last lines of a text file, whatever bytes a tool may have written to it."""
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-line_count:])


def read_last_line(path: Path) -> str:
    """The newest non-empty line of a log that is still growing, cut to a terminal's width."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - HEARTBEAT_TAIL_BYTES))
        lines = log.read().decode("utf-8", errors="replace").split("\n")
    return next((line.strip()[:70] for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print the step's title at once and its elapsed seconds when it has ended."""
    started_s = time.monotonic()
    print(f"  {title} …", flush=True)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            last = read_last_line(LOG_PATH) if LOG_PATH.exists() else ""
            print(f"    {time.monotonic() - started_s:4.0f} s  {last}", flush=True)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    print(f"  {title}: {time.monotonic() - started_s:.1f} s", flush=True)


def run_logged(
    command: Sequence[str | Path],
    remedy: str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> None:
    """Run a command with its output in the log; on failure print the log's tail and stop.

    `env` is added to the present environment; `remedy` is what the reader should do.
    """
    LOG_PATH.parent.mkdir(exist_ok=True)
    words = [str(word) for word in command]
    with LOG_PATH.open("ab") as log:
        log.write(f"\n$ {' '.join(words)}\n".encode())
        log.flush()
        try:
            code = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
            ).returncode
        except FileNotFoundError:
            fail(f"{words[0]} is not installed", remedy)
    if code:
        print(f"\n--- the end of {LOG_PATH.relative_to(ROOT)} ---\n{read_tail(LOG_PATH)}\n---")
        fail(f"`{' '.join(words[:6])}` ended with status {code}", remedy)
