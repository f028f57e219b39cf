"""Ctrl-C in a terminal stops what make runs, and neither make nor its exit status suffers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "deploy" / "setup" / "foreground.py"
# Says that it is up, and ends by itself with the status given once it is interrupted.
DRAINS = """
import signal, sys, threading
asked = threading.Event()
signal.signal(signal.SIGINT, lambda *_: asked.set())
print("up", flush=True)
while not asked.wait(0.05):
    pass
print("drained", flush=True)
sys.exit(int(sys.argv[1]))
"""


def run_in_terminal(folder: Path, status: int, *, interrupt: bool = True) -> tuple[int, str]:
    """make's raw wait status in a terminal of its own where Ctrl-C is pressed, and what was printed."""
    program = folder / "drains.py"
    program.write_text(DRAINS if interrupt else f"raise SystemExit({status})")
    recipe = f"\t@exec {sys.executable} {LAUNCHER} {sys.executable} {program} {status}\n"
    (folder / "Makefile").write_text(f"run:\n{recipe}")
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("make", ["make", "-C", str(folder), "run"])
    printed, pressed = b"", False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the last process that had the terminal is gone
            break
        if not data:
            break
        printed += data
        if interrupt and not pressed and b"up" in printed:
            os.write(terminal, b"\x03")
            pressed = True
    _, ended = os.waitpid(process, 0)
    os.close(terminal)
    return ended, printed.decode()


def test_make_exits_as_the_interrupted_command_does(tmp_path: Path) -> None:
    ended, printed = run_in_terminal(tmp_path, 0)
    assert "drained" in printed
    assert os.WIFEXITED(ended) and os.WEXITSTATUS(ended) == 0


def test_a_command_that_fails_when_it_stops_fails_make(tmp_path: Path) -> None:
    ended, printed = run_in_terminal(tmp_path, 3)
    assert "drained" in printed and "Error 3" in printed
    assert os.WIFEXITED(ended) and os.WEXITSTATUS(ended) == 2


@pytest.mark.parametrize("status", [0, 5])
def test_a_command_that_ends_by_itself_gives_its_status(tmp_path: Path, status: int) -> None:
    ended, _ = run_in_terminal(tmp_path, status, interrupt=False)
    assert os.WEXITSTATUS(ended) == (2 if status else 0)


def test_without_a_terminal_the_command_takes_the_launchers_place() -> None:
    program = "import os; print(os.getpid()); raise SystemExit(7)"
    process = subprocess.Popen(
        [sys.executable, str(LAUNCHER), sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    printed, _ = process.communicate(timeout=30)
    assert (process.returncode, int(printed)) == (7, process.pid)
