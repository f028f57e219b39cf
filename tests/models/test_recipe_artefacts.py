"""The committed models are what their model.json and the card say they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Load = Callable[[str], Any]
MODEL_NAMES = ("edge-small", "cloud-large")
UNQUANTIZED = (
    ("edge-small", "edge-small-f16.gguf"),
    ("edge-small", "onnx"),
    ("cloud-large", "."),
)
LEAST_SEQUENCE_COUNT = 40
MOST_BYTES = 30_000_000


def read_manifest(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (folder / name / "model.json").read_text(encoding="utf-8")
    )
    return document


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_file_has_the_hash_and_size_of_its_entry(folder: Path, name: str) -> None:
    files = read_manifest(folder, name)["files"]
    present = {
        path.relative_to(folder / name).as_posix()
        for path in (folder / name).rglob("*")
        if path.is_file() and path.name != "model.json"
    }
    assert present == set(files)
    for path, entry in files.items():
        content = (folder / name / path).read_bytes()
        assert len(content) == entry["size_bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], path


def test_both_models_together_stay_small(folder: Path) -> None:
    sizes = [
        entry["size_bytes"]
        for name in MODEL_NAMES
        for entry in read_manifest(folder, name)["files"].values()
    ]
    assert sum(sizes) <= MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), UNQUANTIZED)
def test_an_unquantized_artefact_answers_as_pytorch_token_by_token(
    load: Load, folder: Path, name: str, path: str
) -> None:
    reference = folder / name / "reference_greedy.json"
    entries = json.loads(reference.read_text(encoding="utf-8"))["sequences"]
    assert len(entries) >= LEAST_SEQUENCE_COUNT
    runtime = load("runtimes").open_artefact(folder / name / path)
    try:
        for entry in entries:
            assert runtime.encode(entry["prompt"]) == entry["prompt_ids"], entry["id"]
            assert runtime.generate(entry["prompt_ids"]) == entry["answer_ids"], entry["id"]
    finally:
        runtime.close()


def test_the_card_shows_the_figures_of_the_manifests(load: Load, folder: Path) -> None:
    manifests = [read_manifest(folder, name) for name in MODEL_NAMES]
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for row in load("card").quality_rows(manifests):
        assert row in card


def test_the_card_shows_the_variants_as_they_were_measured(load: Load, folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    variants = json.loads((folder / "variants.json").read_text(encoding="utf-8"))
    assert {"F16", "Q8_0", "Q4_0"} <= {variant["quantization"] for variant in variants}
    for row in load("card").variant_rows(variants):
        assert row in card


def test_the_variants_were_made_of_the_committed_file(folder: Path) -> None:
    manifest = read_manifest(folder, "edge-small")
    variants = json.loads((folder / "variants.json").read_text(encoding="utf-8"))
    digests = {variant["quantization"]: variant["digest"] for variant in variants}
    for name in ("f16", "q8_0"):
        entry = manifest["files"][f"edge-small-{name}.gguf"]
        assert digests[name.upper()] == entry["sha256"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_quality_prior_is_that_of_the_served_artefact(folder: Path, name: str) -> None:
    manifest = read_manifest(folder, name)
    served = manifest["artefacts"][manifest["served_artefact"]]
    assert manifest["task_quality"] == served["task_quality"]
    assert manifest["quantization"] == served["dtype"]


def test_the_large_model_is_better_at_hard_tasks(folder: Path) -> None:
    small, large = (read_manifest(folder, name)["task_quality"] for name in MODEL_NAMES)

    def hard_total(quality: dict[str, Any]) -> float:
        return sum(float(levels["hard"]["exact_match_ratio"]) for levels in quality.values())

    assert hard_total(small) < hard_total(large)
