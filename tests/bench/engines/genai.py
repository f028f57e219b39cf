"""The peer: onnxruntime-genai in a virtual environment of its own, which cannot be that of onnxruntime-gpu."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT
from tests.support.tiny_gqa import save_grouped_model
from tests.support.tiny_onnx import Shape

VERSION = "0.18.0"
_PLACE = ROOT / ".cache" / "bench" / f"genai-{VERSION}"
# 101 million parameters and a small vocabulary.
SHAPE = Shape(layers=8, heads=16, head=64, inner=4_096, context=512)


class NoPeer(Exception):
    """onnxruntime-genai cannot be had or used here; the message says why."""


def make_model(folder: Path) -> Path:
    """The model in the form of genai's own builder, for both: a grouped attention graph and genai's configuration."""
    place = folder / "bench-gqa-fp32"
    if (place / "genai_config.json").exists():
        return place
    decoder = save_grouped_model(place, shape=SHAPE)
    names = {
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    grown = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    config = {
        "model": {
            "type": "llama", "context_length": SHAPE.context, "vocab_size": decoder.vocab_size,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
            "decoder": {
                "filename": "model.onnx", "head_size": SHAPE.head, "hidden_size": SHAPE.width,
                "num_attention_heads": SHAPE.heads, "num_key_value_heads": SHAPE.heads,
                "num_hidden_layers": SHAPE.layers, "session_options": {},
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **names},
                "outputs": {"logits": "logits", **grown},
            },
        },
        "search": {"max_length": SHAPE.context, "past_present_share_buffer": True},
    }  # fmt: skip
    (place / "genai_config.json").write_text(json.dumps(config))
    return place


@contextmanager
def running_worker(
    model: Path, thread_count: int
) -> Iterator[Callable[[dict[str, Any]], float]]:
    """Asks a process of genai's; NoPeer when it cannot be had, and for what it cannot do."""
    python = _install()
    with subprocess.Popen(
        [str(python), str(Path(__file__).with_name("genai_worker.py")), str(model), str(thread_count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(what: dict[str, Any]) -> float:
            stdin.write(json.dumps(what) + "\n")
            stdin.flush()
            line = stdout.readline()
            if not line:
                assert process.stderr is not None
                raise NoPeer(f"genai ended: {process.stderr.read()[-300:]}")
            answer = json.loads(line)
            if "error" in answer:
                raise NoPeer(answer["error"][:300])
            return float(answer["tokens_per_second"])

        try:
            yield ask
        finally:
            stdin.close()


def _install() -> Path:
    python = _PLACE / "bin" / "python"
    if (_PLACE / "installed").exists():
        return python
    print(f"installing onnxruntime-genai {VERSION} into {_PLACE.relative_to(ROOT)} …")
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(_PLACE)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             f"onnxruntime-genai=={VERSION}"],
        ):  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise NoPeer(str(error)[:200]) from error
    (_PLACE / "installed").touch()
    return python
