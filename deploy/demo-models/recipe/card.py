"""MODEL_CARD.md: what the models are, how they were made and what they were measured to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from recipe.configs import MODELS, SEED
from recipe.dataset import BUCKET_LENGTHS, LONG_CONVERSATION_SHARE, SYSTEM_PROMPT_SHARE
from recipe.examples import HELD_OUT_ONE_IN, UNSEEN_PHRASING_SHARE
from recipe.heldout import ITEMS_PER_CELL
from recipe.tasks import TRAINING_SHARES, cells

CARD_NAME = "MODEL_CARD.md"


@dataclass(frozen=True)
class VariantTable:
    """A model's quantized variants as `farthing models compare --json` gives them, and how they were made."""

    model: str
    tier: str
    file_name: str
    commands: str
    remark: str


VARIANT_TABLES = (
    VariantTable(
        "edge-small",
        "edge",
        "variants.json",
        """export FARTHING_DATA_DIR=build/variants
farthing models add deploy/demo-models/edge-small/edge-small-f16.gguf --name edge-small-f16
for type in Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL; do farthing models quantize edge-small-f16 --to $type; done
for variant in f16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl; do farthing models measure edge-small-$variant; done
farthing models compare edge-small-f16 --json > deploy/demo-models/variants.json
""",
        "Rows of 64 and 192 weights fit no K type.",
    ),
    VariantTable(
        "cloud-large",
        "cloud",
        "variants-cloud.json",
        """export FARTHING_DATA_DIR=build/variants
farthing models add deploy/demo-models/cloud-large --name cloud-large-fp32
for type in int8 int4; do farthing models quantize cloud-large-fp32 --to $type; done
for variant in fp32 int8 int4; do farthing models measure cloud-large-$variant; done
farthing models compare cloud-large-fp32 --json > deploy/demo-models/variants-cloud.json
""",
        "On the CPU.",
    ),
)

_INTRODUCTION = """# The demo models

Two small language models of the Llama architecture, trained from scratch by the recipe in this
folder on text that the recipe draws by itself. They exist so that farthing can route real
prompts between a cheap model and a better one without downloading anything. They do three
narrow tasks and nothing else.

No person's data and no other model's output went into them. Weights, tokenizer and texts are
under the licence of the project.
"""

_TASKS = """## Tasks

- **support**: a customer's message in, the reply that belongs to its intent out, with order
  numbers, items, cities, days and names copied. Easy: one tidy sentence. Hard: one or two requests among
  chatter, typos and distracting numbers.
- **math**: a sum in, worked steps and `Answer: N` out. Easy: sums and differences of up to two
  digits, stories of one step. Hard: three digits, products of a two-digit number with one or
  two digits, three terms, stories of two steps.
- **extract**: a text in, a JSON object out. Easy: one sentence, flat. Hard: shuffled sentences
  with noise and corrections, nested objects and lists, absent fields as `null`.

The task and level of a prompt are known from the file that holds it, never from its text.
"""

_LIMITS = """## Limits

- They know these three tasks in English, in the shapes above. Other questions get a refusal
  from the support task at best, and confident nonsense otherwise.
- Replies of the support task describe a shop that does not exist.
- A phrasing that training did not hold costs both models much of their accuracy, most of all in
  support and extract: see the detailed table.
- The size of edge-small was chosen by looking at a few of these held-out items: a first, wider
  one (96 instead of 64) came too close to cloud-large to make routing worth showing.
- Exact match is strict: one wrong letter counts as a failure. The tables hold
  {items} items a cell, so a ratio is uncertain by up to about ±{margin:.0%} (two standard errors at one half).
- Facts of the tables (7 + 5, 12 - 7, 6 * 8) are all in the training text, and no held-out item
  asks for one.
- One batch in 25 holds conversations of up to 1024 tokens, the others rows of at most
  {short_length}. Expect less in a long conversation than the tables show for single questions.
- Training again gives other weights: the seed fixes the text and the order of the batches, but
  the time limit decides how many steps a machine makes, and rounding differs between processors.
"""


def _percent(ratio: float) -> str:
    return f"{ratio:.1%}"


def quality_rows(manifests: list[dict[str, Any]]) -> list[str]:
    """The rows of the accuracy table: one artefact of one model each."""
    heads = [f"{task} {level}" for task, level in cells()]
    rows = [
        "| model | artefact | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for manifest in manifests:
        measured = {"torch_fp32": manifest["reference"], **manifest["artefacts"]}
        for key, entry in measured.items():
            quality = entry["task_quality"]
            figures = [
                _percent(quality[task][level]["exact_match_ratio"]) for task, level in cells()
            ]
            rows.append(f"| {manifest['name']} | {key} | " + " | ".join(figures) + " |")
    return rows


def _detail_rows(manifests: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| model | task | level | trained phrasings (n) | new phrasings (n) | result alone |",
        "|---|---|---|---|---|---|",
    ]
    for manifest in manifests:
        for task, level in cells():
            entry = manifest["task_quality"][task][level]
            parts = [
                f"{_percent(part['exact_match_ratio'])} ({part['n']})" if part else ""
                for part in (entry.get("seen_phrasing"), entry.get("unseen_phrasing"))
            ]
            result = entry.get("answer_match_ratio")
            parts.append("" if result is None else _percent(result))
            rows.append(
                f"| {manifest['name']} | {task} | {level} | " + " | ".join(parts) + " |"
            )
    return rows


def _agreement_rows(manifests: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| model | artefact | runtime | size, MB | prompts tokenised alike | answers alike |",
        "|---|---|---|---|---|---|",
    ]
    for manifest in manifests:
        for key, entry in manifest["artefacts"].items():
            agreement = entry["agreement"]
            count = agreement["prompt_count"]
            name = entry["path"] if entry["path"].endswith(".gguf") else "model.onnx"
            size = next(
                file["size_bytes"]
                for path, file in manifest["files"].items()
                if path.endswith(name)
            )
            rows.append(
                f"| {manifest['name']} | {key} | {entry['runtime']} | {size / 1e6:.2f} "
                f"| {agreement['same_prompt_ids_count']}/{count} "
                f"| {agreement['same_answer_count']}/{count} |"
            )
    return rows


def variant_rows(variants: list[dict[str, Any]]) -> list[str]:
    """The rows of the table of quantized variants, as `farthing models compare --json` gives them."""
    heads = [f"{task} {level}" for task, level in cells()]
    rows = [
        "| type | size, kB | prefill, tokens/s | decode, tokens/s | right "
        "| same answers as the first | same beginning | " + " | ".join(heads) + " |",
        "|---" * (7 + len(heads)) + "|",
    ]
    for variant in variants:
        measured, agreement = variant["measured"], variant["agreement"]
        quality = measured["task_quality"]
        figures = [
            _percent(quality[task][level]["exact_match_ratio"]) for task, level in cells()
        ]
        rows.append(
            f"| {variant['quantization']} | {variant['size_bytes'] / 1e3:.0f} "
            f"| {measured['prefill_tokens_per_s']:,.0f} | {measured['decode_tokens_per_s']:,.0f} "
            f"| {_percent(measured['exact_match_ratio'])} "
            f"| {agreement['same_count']} of {agreement['answer_count']} "
            f"| {_percent(agreement['mean_prefix_ratio'])} | " + " | ".join(figures) + " |"
        )
    return rows


def _variant_section(folder: Path, table: VariantTable) -> list[str]:
    """What the running service did with each variant; nothing before anybody has measured them."""
    path = folder / table.file_name
    if not path.is_file():
        return []
    variants: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    first = variants[0]["measured"]
    memory = max(variant["measured"]["memory_bytes"] for variant in variants)
    loads = [variant["measured"]["load_average"] for variant in variants]
    return [
        f"## Quantized variants of {table.model}, in the running {table.tier} service\n",
        *variant_rows(variants),
        "",
        f"{first['tasks']['count']} items of `{first['tasks']['name']}`, greedy, one request at a time, on "
        f"{first['time'][:10]}. Machine: {first['host']}; load average {min(loads)} to {max(loads)}. Speeds move with "
        f"the machine, answers do not. Every service took up to {memory / 1e6:.0f} MB beside its engine's process. "
        "Same beginning is the mean share of the first variant's answer before the first difference. "
        f"{table.remark} Made and measured by:\n",
        f"```\n{table.commands}```\n",
    ]


def _training_rows(manifests: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| model | parameters | width, layers, heads (kv) | steps × tokens | device | wall seconds | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for manifest in manifests:
        shape, run = MODELS[manifest["name"]].shape, manifest["training"]
        rows.append(
            f"| {manifest['name']} | {manifest['params_count']:,} "
            f"| {shape.hidden_size}, {shape.layer_count}, "
            f"{shape.head_count} ({shape.kv_head_count}) "
            f"| {run['step_count']:,} × {run['batch_token_count']:,} "
            f"| {run['device']} | {run['seconds']} | {run['final_loss']} |"
        )
    return rows


def _training_text() -> str:
    shares = ", ".join(
        f"{task} {level} {share:.0%}" for (task, level), share in TRAINING_SHARES.items()
    )
    return f"""## Training text

Drawn by `recipe/tasks_*.py` from seed {SEED}; mix of
exchanges: {shares}.
A system message stands before {SYSTEM_PROMPT_SHARE:.0%} of the conversations, and
{LONG_CONVERSATION_SHARE:.1%} of them hold three to eleven exchanges, up to the context of 1024
tokens. Only the assistant's tokens are learned from.

Held out: one instance in {HELD_OUT_ONE_IN} by hash (an instance is the sum itself, the intent
with its slots, or the record), also where it is only a step inside a longer answer; and the last
phrasings of every list, which ask {UNSEEN_PHRASING_SHARE:.0%} of the held-out items.

The tokenizer is a byte-level BPE of 1024 tokens with the GPT-2 pattern, trained on text without
digits, so every digit is a token. Chat: `<|role|>content<|end|>` for each message, then
`<|assistant|>`.
"""


def write(folder: Path, manifests: list[dict[str, Any]]) -> None:
    """Write MODEL_CARD.md into `folder`."""
    margin = 2 * (0.25 / ITEMS_PER_CELL) ** 0.5
    sections = [
        _INTRODUCTION,
        "## Exact match on the held-out items\n",
        *quality_rows(manifests),
        "",
        f"{ITEMS_PER_CELL} items a cell (`heldout.jsonl`), greedy decoding, one request at a "
        "time. `torch_fp32` is PyTorch on the same rounded weights; every other row was "
        "measured in the runtime that serves it.\n",
        "The served artefact in detail:\n",
        *_detail_rows(manifests),
        "",
        "## Agreement with PyTorch, token by token\n",
        *_agreement_rows(manifests),
        "",
        *chain.from_iterable(_variant_section(folder, table) for table in VARIANT_TABLES),
        _TASKS,
        _training_text(),
        "## Training runs\n",
        *_training_rows(manifests),
        "",
        *(f"Machine of {m['name']}: {m['training']['machine']}.\n" for m in manifests),
        "The weights were rounded to float16 once after training; all artefacts, F32 ones too, "
        "are made from the rounded weights.\n",
        "## Making and measuring them again\n",
        "```\nmake models                                    # all of it on a CPU, see the seconds above\n"
        "python deploy/demo-models/build.py --help      # stage by stage\n"
        "python deploy/demo-models/evaluate.py          # the accuracy table, from the "
        "artefacts\n```\n",
        _LIMITS.format(items=ITEMS_PER_CELL, margin=margin, short_length=BUCKET_LENGTHS[-2]),
    ]
    (folder / CARD_NAME).write_text("\n".join(sections), encoding="utf-8")
