"""Runs many self-tests quickly: a process that has the engine loaded and forks for each, so that a crash kills a fork.

What `farthing.edge.selftest` starts for one model takes a second to import; here a fork takes milliseconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from farthing.edge.plan import LoadPlan
from farthing.edge.selftest import CHILD_ENVIRONMENT, judge_child, main, make_small

ROOT = Path(__file__).resolve().parents[2]
_MEMORY_BYTES = 8 << 30
_TIMEOUT_S = 20  # a killed fork fails the test as the crash it is


class SelftestChildren:
    """The parent's side. Use as a context."""

    def __enter__(self) -> SelftestChildren:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.selftest_children"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **CHILD_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(_TIMEOUT_S)

    def run(self, plan: LoadPlan) -> None:
        """As `run_selftest`. Raises FailedPrecondition when the model cannot be computed."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(make_small(plan).to_json() + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        judge_child(plan.path, reply["code"], reply["output"], reply["complaints"])


def _serve() -> None:
    import farthing.edge.batch_backend  # noqa: F401 - loaded once for all forks

    for line in sys.stdin:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
            child = os.fork()
            if child == 0:
                _compute(line, output.fileno(), complaints.fileno())
            _, status = os.waitpid(child, 0)
            texts = {}
            for name, file in (("output", output), ("complaints", complaints)):
                file.seek(0)
                texts[name] = file.read().decode("utf-8", "replace")
        reply = {"code": os.waitstatus_to_exitcode(status), **texts}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _compute(line: str, output: int, complaints: int) -> None:
    os.dup2(output, 1)
    os.dup2(complaints, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_TIMEOUT_S)
    code = 2
    try:
        code = main(LoadPlan.from_json(line))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
