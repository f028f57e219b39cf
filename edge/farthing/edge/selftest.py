"""Computes one token of the model in a process of its own, where a crash can hurt nobody.

A build of llama.cpp that does not fit the processor, and some damaged files, end in a signal
that no Python code can catch. `python -m farthing.edge.selftest PLAN` is that process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from farthing.edge.plan import LoadPlan
from farthing.kit.errors import FailedPrecondition, FarthingError

_CONTEXT_LENGTH = 32
_RESULT_MARK = "farthing-selftest:"
# GCC 12 leaves out stores to the AMX tile configuration; F16 models run, quantized ones crash.
_REBUILD = (
    "Rebuild llama.cpp without AMX: CFLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'"
    " CXXFLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16' pip install --force-reinstall"
    " --no-binary llama-cpp-python llama-cpp-python. If it still crashes, the model file is"
    " damaged: download it again."
)


def run_selftest(plan: LoadPlan, timeout_ms: int) -> None:
    """Raises FailedPrecondition when the model cannot be computed on this machine."""
    small = replace(plan, context_length=_CONTEXT_LENGTH, prefill_chunk_token_count=8)
    command = [sys.executable, "-m", "farthing.edge.selftest", small.to_json()]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_ms / 1000, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(
            plan.path,
            f"took longer than {timeout_ms} ms",
            "Set FARTHING_EDGE_SELFTEST_TIMEOUT_MS higher or use a smaller model.",
        ) from error
    if child.returncode == 0:
        return
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise _failed(plan.path, f"crashed with {name}", _REBUILD)
    for line in child.stdout.splitlines():
        if line.startswith(_RESULT_MARK):
            result = json.loads(line.removeprefix(_RESULT_MARK))
            raise FailedPrecondition(
                result["message"], reason=result["reason"], metadata=result["metadata"]
            )
    raise _failed(plan.path, "failed", child.stderr.strip()[-2_000:])


def main(plan: LoadPlan) -> int:
    """The child's work: load, one chunk, one token."""
    try:
        from farthing.edge.backend_llama import LlamaBackend

        backend = LlamaBackend(plan)
        end = backend.model.eos_ids
        token = next(one for one in range(backend.model.vocab_size) if one not in end)
        backend.prefill([token, token])
        backend.decode(token)
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


def _failed(path: Path, what: str, advice: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The start-up test of {path.name} {what}. {advice}",
        reason="SELFTEST_FAILED",
        metadata={"path": str(path)},
    )


if __name__ == "__main__":
    raise SystemExit(main(LoadPlan.from_json(sys.argv[1])))
