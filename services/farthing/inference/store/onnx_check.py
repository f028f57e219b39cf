"""Proves, in a child process, that a folder holds a decoder this suite can serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from farthing.inference.store.facts import ModelFacts
from farthing.inference.store.onnx_external import external_files
from farthing.inference.store.onnx_folder import invalid_folder, read_config, read_json
from farthing.inference.store.onnx_signature import GraphValue, read_signature
from farthing.inference.store.onnx_weights import read_weights
from farthing.kit.errors import FailedPrecondition

PROBE_TIMEOUT_S = 600.0
# Libraries, heap and arenas; what a model takes on top is a small multiple of its files.
_BASE_MEMORY_BYTES = 6 << 30
_MEMORY_PER_FILE_BYTE = 4


def check_onnx(folder: Path, graph: Path) -> ModelFacts:
    """Facts of an Optimum-style folder.

    InvalidArgument: incomplete or corrupt; Unimplemented: no decoder with a cache;
    FailedPrecondition: the libraries to check it with are not installed.
    """
    config = read_config(folder)
    read_json(folder, "tokenizer.json")
    findings = _probe(folder, graph)
    signature = read_signature(
        _values(findings["inputs"]),
        _values(findings["outputs"]),
        head_count=config.head_count,
        head_dimension=config.head_dimension,
    )
    vocab_size = signature.vocab_size or config.vocab_size
    if vocab_size and int(findings["tokenizer_vocab_size"]) > vocab_size:
        raise invalid_folder(
            folder,
            f"the tokenizer has {findings['tokenizer_vocab_size']} tokens, the graph {vocab_size}",
            "take graph and tokenizer from the same export",
        )
    if not config.context_length:
        raise invalid_folder(
            folder,
            "config.json names no max_position_embeddings",
            "add the model's context length",
        )
    weights = read_weights(graph)
    return ModelFacts(
        format="onnx",
        architecture=config.architecture,
        quantization=weights.precision,
        parameter_count=weights.parameter_count,
        context_length=config.context_length,
        vocab_size=vocab_size,
        title="",
        licence=config.licence,
    )


def _values(items: list[Any]) -> list[GraphValue]:
    return [
        GraphValue(name, tuple(d if isinstance(d, int) else None for d in shape), element_type)
        for name, shape, element_type in items
    ]


def _probe(folder: Path, graph: Path) -> dict[str, Any]:
    size_bytes = sum(path.stat().st_size for path in (graph, *external_files(graph)))
    command = [
        sys.executable,
        "-m",
        "farthing.inference.store.onnx_probe",
        str(graph),
        str(folder / "tokenizer.json"),
        str(_BASE_MEMORY_BYTES + _MEMORY_PER_FILE_BYTE * size_bytes),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise invalid_folder(
            folder, f"opening it took longer than {PROBE_TIMEOUT_S:.0f} s", "check the disk"
        ) from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise invalid_folder(
            folder,
            f"the library crashed on it (exit {done.returncode}: {last[0]})",
            "export it again",
        )
    findings: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "missing" in findings:
        raise FailedPrecondition(
            f"checking an ONNX model needs {findings['missing']}: pip install 'farthing[cloud]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "cloud"},
        )
    if "error" in findings:
        raise invalid_folder(folder, str(findings["error"]), "fetch or export it again")
    return findings
