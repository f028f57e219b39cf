"""PyTorch's transformers, in an environment of their own: `python torch_worker.py FOLDER cpu|cuda THREADS`.

FOLDER is one of llama_model's. Lines in: {"kind": "greedy", "prompt", "tokens"}, answered with the tokens, or {"kind":
"generator", "rows", "prompt", "tokens"} as genai_worker takes it, a batch that begins and ends together, answered with
its times in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

_NAMES = {
    "norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "inner_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
_WHOLE = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "out": "lm_head.weight",
}


def load(folder: Path, device: str) -> Any:
    """The model with the arrays' weights, in their precision."""
    config = LlamaConfig.from_pretrained(folder)
    state = {}
    for file in (folder / "arrays").glob("*.npy"):
        values = np.load(file)
        # Matrices are kept to multiply from the right, PyTorch's layers hold them transposed.
        is_linear = values.ndim == 2 and file.stem != "embed"
        tensor = torch.from_numpy(values.T.copy() if is_linear else values)
        layer, _, part = file.stem.partition(".")
        state[f"model.layers.{layer}.{_NAMES[part]}" if part else _WHOLE[layer]] = tensor
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(state, assign=True)
    # Positions' tables are no weights: made anew where they are used.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.to(device).eval()


def generate(model: Any, prompts: Any, count: int) -> Any:
    """So many tokens behind each prompt, greedily and whatever they are."""
    answers = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
        min_new_tokens=count, max_new_tokens=count, eos_token_id=None,
    )  # fmt: skip
    return answers[:, prompts.shape[1] :].cpu()


def run_batch(model: Any, device: str, rows: int, prompt: int, tokens: int) -> dict[str, float]:
    """Seconds that one token behind every prompt takes, and that `tokens` take."""
    draw = np.random.default_rng(rows)
    prompts = torch.from_numpy(draw.integers(5, 200, (rows, prompt))).to(device)
    times_s = []
    for count in (1, tokens):
        started_s = time.perf_counter()
        generate(model, prompts, count)  # comes back to the host, so that it is over
        times_s.append(time.perf_counter() - started_s)
    return {"first_s": times_s[0], "whole_s": times_s[1]}


def main(folder: Path, device: str, thread_count: int) -> None:
    """Answers until stdin ends."""
    if thread_count:
        torch.set_num_threads(thread_count)
    model = None
    for line in sys.stdin:
        asked = json.loads(line)
        kind = asked.pop("kind")
        try:
            with torch.inference_mode():
                model = model or load(folder, device)
                if kind == "greedy":
                    prompt = torch.tensor([asked["prompt"]], device=device)
                    answers = generate(model, prompt, asked["tokens"])
                    answer: dict[str, Any] = {"tokens": answers[0].tolist()}
                else:
                    answer = run_batch(model, device, **asked)
        except (
            Exception
        ) as error:  # told to the benchmark, which says what it could not compare
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
