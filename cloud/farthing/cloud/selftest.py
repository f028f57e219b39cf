"""Computes a few tokens of the model in a process of its own, where a crash can hurt nobody.

A graph or a driver that the library cannot cope with may end in a signal that no Python code can catch.
`python -m farthing.cloud.selftest PLAN` is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.plan import LoadPlan
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import FailedPrecondition, FarthingError

_RESULT_MARK = "farthing-selftest:"


def run_selftest(plan: LoadPlan, timeout_ms: int) -> None:
    """Raises FailedPrecondition when the model cannot be computed on this machine."""
    command = [sys.executable, "-m", "farthing.cloud.selftest", plan.to_json()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_ms / 1000,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(
            plan.path,
            f"took longer than {timeout_ms} ms",
            "set FARTHING_CLOUD_SELFTEST_TIMEOUT_MS higher or use a smaller model",
        ) from error
    if child.returncode == 0:
        return
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise _failed(
            plan.path,
            f"crashed with {name}",
            "try FARTHING_CLOUD_DEVICE=cpu; if that works the CUDA driver or libraries do not fit this build of "
            "ONNX Runtime, else fetch or export the model again",
        )
    for line in child.stdout.splitlines():
        if line.startswith(_RESULT_MARK):
            result = json.loads(line.removeprefix(_RESULT_MARK))
            raise FailedPrecondition(
                result["message"], reason=result["reason"], metadata=result["metadata"]
            )
    raise _failed(plan.path, "failed", child.stderr.strip()[-2_000:])


def main(plan: LoadPlan) -> int:
    """The child's work: load, two prompts in one step, a token for each in the next.

    Rewriting a graph that is met for the first time is part of it: what comes out is kept for the service itself.
    """
    try:
        backend = OrtBatchBackend(plan)
        token = min(set(range(backend.model.vocab_size)) - backend.model.eos_ids)
        slots = range(min(2, backend.layout.slot_count))
        backend.step([SlotWork(slot, 0, [token] * (2 - slot)) for slot in slots])
        backend.step([SlotWork(slot, 2 - slot, [token]) for slot in slots]).best()
        backend.close()
    except FarthingError as error:
        result = {"message": error.message, "reason": error.reason, "metadata": error.metadata}
        sys.stdout.write(_RESULT_MARK + json.dumps(result) + "\n")
        return 1
    return 0


def _failed(path: Path, what: str, advice: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the start-up test of {path.name} {what}; {advice}",
        reason="SELFTEST_FAILED",
        metadata={"path": str(path)},
    )


if __name__ == "__main__":
    raise SystemExit(main(LoadPlan.from_json(sys.argv[1])))
