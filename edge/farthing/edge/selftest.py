"""Computes a few tokens of the model in a process of its own, where a crash can hurt nobody.

A build of llama.cpp that does not fit the processor, and some damaged files, end in a signal
that no Python code can catch. `python -m farthing.edge.selftest PLAN` is that process.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from farthing.edge.plan import LoadPlan
from farthing.edge.shape import choose_attention
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import FailedPrecondition, FarthingError

_CONTEXT_LENGTH = 32
CHILD_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}  # which would wait for a debugger
_RESULT_MARK = "farthing-selftest:"
# GCC 12 leaves out stores to the AMX tile configuration; F16 models run, quantized ones crash.
_REBUILD = (
    "Rebuild llama.cpp without AMX: CFLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'"
    " CXXFLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16' pip install --force-reinstall"
    " --no-binary llama-cpp-python llama-cpp-python. If it still crashes, the model file is"
    " damaged: download it again."
)
_REPAIR = "The model file is damaged or of a kind that this llama.cpp cannot compute: download or convert it again."


def run_selftest(plan: LoadPlan, timeout_ms: int) -> None:
    """Raises FailedPrecondition when the model cannot be computed on this machine."""
    command = [sys.executable, "-m", "farthing.edge.selftest", make_small(plan).to_json()]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_ms / 1000,
            check=False,
            env={**os.environ, **CHILD_ENVIRONMENT},
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(
            plan.path,
            f"took longer than {timeout_ms} ms",
            "Set FARTHING_EDGE_SELFTEST_TIMEOUT_MS higher or use a smaller model.",
        ) from error
    judge_child(plan.path, child.returncode, child.stdout, child.stderr)


def make_small(plan: LoadPlan) -> LoadPlan:
    """The plan with as much room as the test needs, and the kernels of the whole."""
    return replace(
        plan,
        context_length=_CONTEXT_LENGTH,
        slot_count=2,
        step_token_capacity=_CONTEXT_LENGTH,
        pool_token_capacity=0,
        memory_limit_bytes=0,
        flash_attention=choose_attention(plan, plan.context_length, platform.machine()),
    )


def judge_child(path: Path, return_code: int, output: str, complaints: str) -> None:
    """Raises FailedPrecondition with what the child said of itself, or with what its death means."""
    if return_code == 0:
        return
    if return_code == -signal.SIGABRT:  # the library found what it had not expected
        raise _failed(path, f"gave up with SIGABRT{_last_words(complaints)}", _REPAIR)
    if return_code < 0:
        raise _failed(path, f"crashed with {signal.Signals(-return_code).name}", _REBUILD)
    for line in output.splitlines():
        if line.startswith(_RESULT_MARK):
            result = json.loads(line.removeprefix(_RESULT_MARK))
            raise FailedPrecondition(
                result["message"], reason=result["reason"], metadata=result["metadata"]
            )
    raise _failed(path, "failed", complaints.strip()[-2_000:])


def main(plan: LoadPlan) -> int:
    """The child's work: load as planned, a prompt in each of two slots, then a token in both.

    One row and several take different kernels, and so do quantized keys, adapters and copies.
    """
    try:
        from farthing.edge.batch_backend import LlamaBatchBackend

        backend = LlamaBatchBackend(plan)
        end = backend.model.eos_ids
        tokens = (one for one in range(backend.model.vocab_size) if one not in end)
        token = next(tokens, 0)
        for adapter in ("", *(one.name for one in plan.adapters)):
            backend.reset()
            backend.step([SlotWork(0, 0, [token] * 3)], adapter).best()
            backend.copy(0, 1, 2)
            both = [SlotWork(0, 3, [token]), SlotWork(1, 2, [token])]
            backend.step(both, adapter).best()
        backend.close()
    except FarthingError as error:
        result = {
            "message": error.message,
            "reason": error.reason,
            "metadata": error.metadata,
        }
        sys.stdout.write(_RESULT_MARK + json.dumps(result) + "\n")
        return 1
    return 0


def _last_words(complaints: str) -> str:
    """llama.cpp's assertion, without the folder that its source was compiled in."""
    for line in reversed(complaints.splitlines()):
        place, _, assertion = line.partition(": GGML_")
        if assertion:
            return f" ({Path(place).name}: GGML_{assertion})"
    return ""


def _failed(path: Path, what: str, advice: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The start-up test of {path.name} {what}. {advice}",
        reason="SELFTEST_FAILED",
        metadata={"path": str(path)},
    )


if __name__ == "__main__":
    raise SystemExit(main(LoadPlan.from_json(sys.argv[1])))
