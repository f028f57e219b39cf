"""Runs a command as the terminal's foreground job: `foreground.py COMMAND…`.

Ctrl-C then reaches the command alone. make, which would meet it too, dies of every interrupt once its recipe has ended,
even of one that the recipe took as the wish to stop and obeyed; so `make run` could not exit with 0. What a shell
does for its jobs is done here for one: it gets the terminal, is stopped and goes on together with whoever started it,
and its exit status is ours. Without a terminal, or in the background, the command simply takes this process's place.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_TERMINAL = 0


def main(command: list[str]) -> int:
    """The command's exit status; 128 and the signal's number when one killed it, as shells have it."""
    if not _owns_terminal():
        os.execvp(command[0], command)
    # Whoever hands the terminal over is in the background then, and would be stopped for it.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(_TERMINAL, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(command[0], command)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(job, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        return _wait(job)
    finally:
        os.tcsetpgrp(_TERMINAL, os.getpgrp())


def _wait(job: int) -> int:
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        # Ctrl-Z: stop whoever waits for us too, so that the shell gets its prompt; after `fg` we all go on.
        os.tcsetpgrp(_TERMINAL, os.getpgrp())
        os.killpg(0, signal.SIGTSTP)
        os.tcsetpgrp(_TERMINAL, job)
        os.killpg(job, signal.SIGCONT)


def _owns_terminal() -> bool:
    try:
        return os.tcgetpgrp(_TERMINAL) == os.getpgrp()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
