"""Builds the demo models from nothing: `python deploy/demo-models/build.py [stage …]`.

Without a stage, all run in order: text, data, train, reference, export, measure.
`train` and `reference` need PyTorch, which is no dependency of the project: if this interpreter
lacks it, they run in .venvs/train, which is made on first use.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import time
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "demo-models"
TRAIN_VENV = ROOT / ".venvs" / "train"
TRAIN_REQUIREMENTS = ("torch==2.13.0", "tokenizers>=0.22", "numpy>=2")
STAGES = ("text", "data", "train", "reference", "export", "measure")
TORCH_STAGES = ("train", "reference")
DATA_SHARD_COUNT = 40  # of 20,000 conversations
TOKENIZER = HERE / "tokenizer.json"
TRAINING_RESULT, REFERENCE_RESULT = "training.json", "reference.json"


def parse_arguments() -> argparse.Namespace:
    from recipe.configs import MODELS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    parser.add_argument(
        "--model", choices=sorted(MODELS), action="append", help="default: both"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="data, weights and results")
    parser.add_argument("--shards", type=int, default=DATA_SHARD_COUNT, help="of training text")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-tokens", type=int, help="instead of each model's own number")
    parser.add_argument(
        "--seconds",
        type=float,
        help="of training, instead of each model's own time",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; stages: {', '.join(STAGES)}")
    arguments.stages = [stage for stage in STAGES if stage in (arguments.stages or STAGES)]
    arguments.model = arguments.model or list(MODELS)
    return arguments


def run_in_train_venv(stage: str, arguments: argparse.Namespace) -> None:
    """Run one stage with an interpreter that has PyTorch."""
    python = TRAIN_VENV / "bin" / "python"
    if not python.exists():
        print(f"making {TRAIN_VENV} with {', '.join(TRAIN_REQUIREMENTS)}", flush=True)
        venv.create(TRAIN_VENV, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", *TRAIN_REQUIREMENTS]
        subprocess.run(command, check=True)
    command = [str(python), str(Path(__file__)), stage, "--work", str(arguments.work)]
    for option, value in (
        ("--seconds", arguments.seconds),
        ("--batch-tokens", arguments.batch_tokens),
    ):
        command += [option, str(value)] if value else []
    for name in arguments.model:
        command += ["--model", name]
    subprocess.run(command, check=True)


def write_text() -> None:
    """The tokenizer, the held-out items and the demo prompts."""
    from recipe import heldout, tokenizer
    from recipe.configs import SEED

    tokenizer.train(TOKENIZER, SEED)
    heldout.write(HERE, SEED)


def write_data(arguments: argparse.Namespace) -> None:
    from recipe import dataset
    from recipe.configs import SEED

    folder = arguments.work / "data"
    for stale in folder.glob("*.npy"):
        stale.unlink()
    print(dataset.build(folder, TOKENIZER, SEED, arguments.shards, arguments.workers))


def describe_machine() -> str:
    """The processor, its cores and how busy it is, which together decide the steps per second."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    extension = next(
        (word for word in ("amx_bf16", "avx512_bf16") if any(word in line for line in lines)),
        "no bfloat16 unit",
    )
    processor = names[0] if names else "unknown processor"
    busy = os.getloadavg()[2]
    return f"{processor} ({extension}), {os.cpu_count()} cores, load average {busy:.1f}"


def train(arguments: argparse.Namespace) -> None:
    from recipe import manifest
    from recipe.configs import MODELS
    from recipe.train import Limits
    from recipe.train import train as train_model

    limits = Limits(arguments.seconds, arguments.batch_tokens)
    for name in arguments.model:
        folder = arguments.work / name
        recipe_sha256 = manifest.recipe_sha256()
        report = train_model(MODELS[name], arguments.work / "data", folder, limits)
        report["recipe_sha256"] = recipe_sha256
        report["machine"] = describe_machine()
        save(folder / TRAINING_RESULT, report)


def load_weights(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    import numpy as np

    with np.load(arguments.work / name / "weights.npz") as weights:
        return dict(weights)


def write_reference(arguments: argparse.Namespace) -> None:
    from recipe import heldout, reference
    from recipe.configs import MODELS

    for name in arguments.model:
        (HERE / name).mkdir(exist_ok=True)
        result = reference.measure(
            MODELS[name],
            load_weights(arguments, name),
            TOKENIZER,
            heldout.read(HERE),
            HERE / name / "reference_greedy.json",
        )
        save(arguments.work / name / REFERENCE_RESULT, result)


def export(arguments: argparse.Namespace) -> None:
    from recipe import export_gguf, export_onnx, quantize
    from recipe.configs import MODELS
    from recipe.measure import ARTEFACTS

    for name in arguments.model:
        model, weights = MODELS[name], load_weights(arguments, name)
        paths = {a.key: HERE / name / a.path for a in ARTEFACTS[name]}
        export_onnx.write(model, weights, TOKENIZER, paths["onnx_fp32"])
        if "gguf_f16" in paths:
            export_gguf.write(model, weights, TOKENIZER, paths["gguf_f16"])
            quantize.quantize_to_q8_0(paths["gguf_f16"], paths["gguf_q8_0"])


def measure(arguments: argparse.Namespace) -> None:
    """Measure every artefact in its runtime, then write model.json and the card."""
    from recipe import card, heldout, manifest
    from recipe.configs import MODELS
    from recipe.measure import ARTEFACTS, measure_agreement, measure_quality
    from recipe.runtimes import open_artefact

    items = heldout.read(HERE)
    for name in arguments.model:
        measured = {"torch_fp32": read(arguments.work / name / REFERENCE_RESULT)}
        for artefact in ARTEFACTS[name]:
            runtime = open_artefact(HERE / name / artefact.path)
            agreement = measure_agreement(runtime, HERE / name / "reference_greedy.json")
            quality = measure_quality(runtime, items)
            runtime.close()
            print(f"{name} {artefact.key}: {agreement} in {quality['seconds']} s", flush=True)
            measured[artefact.key] = {
                "task_quality": quality["task_quality"],
                "agreement": asdict(agreement),
            }
        training = read(arguments.work / name / TRAINING_RESULT)
        manifest.write(MODELS[name], HERE / name, training, measured)
    card.write(HERE, [manifest.read(HERE / name) for name in MODELS])


def save(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def main() -> None:
    arguments = parse_arguments()
    has_torch = importlib.util.find_spec("torch") is not None
    for stage in arguments.stages:
        started = time.monotonic()
        print(f"== {stage}", flush=True)
        if stage in TORCH_STAGES and not has_torch:
            run_in_train_venv(stage, arguments)
        elif stage == "text":
            write_text()
        else:
            STAGE_FUNCTIONS[stage](arguments)
        print(f"== {stage} done in {time.monotonic() - started:.0f} s", flush=True)


STAGE_FUNCTIONS = {
    "data": write_data,
    "train": train,
    "reference": write_reference,
    "export": export,
    "measure": measure,
}

if __name__ == "__main__":
    main()
