"""Greedy answers from the artefacts themselves, through llama.cpp and ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recipe.chat import END_ID
from recipe.tokenizer import CONTEXT_LENGTH

ANSWER_LIMIT_COUNT = 256
THREAD_COUNT = 1


class Runtime(Protocol):
    """One artefact, opened: text to token ids, ids to their greedy continuation, ids to text."""

    def encode(self, text: str) -> list[int]: ...

    def generate(self, ids: list[int]) -> list[int]:
        """At most ANSWER_LIMIT_COUNT tokens, the end marker included where it came."""
        ...

    def decode(self, ids: list[int]) -> str: ...

    def close(self) -> None: ...


class LlamaCppRuntime:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        # Read when the library starts its threads: idle ones then sleep instead of spinning.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        from llama_cpp import Llama

        self._model = Llama(
            str(path), n_ctx=CONTEXT_LENGTH, n_threads=THREAD_COUNT, verbose=False
        )

    def encode(self, text: str) -> list[int]:
        return list(self._model.tokenize(text.encode(), add_bos=False, special=True))

    def generate(self, ids: list[int]) -> list[int]:
        generated: list[int] = []
        self._model.reset()
        for token in self._model.generate(ids, temp=0.0, repeat_penalty=1.0):
            generated.append(token)
            if token == END_ID or len(generated) >= min(
                ANSWER_LIMIT_COUNT, CONTEXT_LENGTH - len(ids)
            ):
                break
        return generated

    def decode(self, ids: list[int]) -> str:
        kept = [token for token in ids if token != END_ID]
        return bytes(self._model.detokenize(kept)).decode(errors="replace")

    def close(self) -> None:
        self._model.close()


class OnnxRuntime:
    """An Optimum folder in ONNX Runtime, on the CPU."""

    def __init__(self, folder: Path) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREAD_COUNT
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._empty_past: dict[str, Any] = {
            value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def generate(self, ids: list[int]) -> list[int]:
        generated: list[int] = []
        past, step, total = self._empty_past, ids, 0
        while len(generated) < min(ANSWER_LIMIT_COUNT, CONTEXT_LENGTH - len(ids)):
            total += len(step)
            feed = {
                "input_ids": np.array([step], np.int64),
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(total - len(step), total, dtype=np.int64)[None],
                **past,
            }
            logits, *presents = self._session.run(self._outputs, feed)
            past = dict(zip(past, presents, strict=True))
            step = [int(logits[0, -1].argmax())]
            generated += step
            if step[0] == END_ID:
                break
        return generated

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def close(self) -> None:
        del self._session


def open_artefact(path: Path) -> Runtime:
    """Open a GGUF file or an Optimum folder."""
    return LlamaCppRuntime(path) if path.suffix == ".gguf" else OnnxRuntime(path)
