"""model.json: what a model is, what its files hash to and how good it was measured to be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recipe.configs import SEED, Model
from recipe.measure import ARTEFACTS

MANIFEST_NAME = "model.json"
# Whatever decides the weights; the exporters and the card do not.
_RECIPE_FILES = """chat.py configs.py dataset.py examples.py model.py rotary.py support_phrases.py
tasks.py tasks_extract.py tasks_math.py tasks_support.py tokenizer.py train.py words.py""".split()


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recipe_sha256() -> str:
    """One hash over all modules that decide the weights."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in sorted(_RECIPE_FILES):
        digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return digest.hexdigest()


def write(
    model: Model, folder: Path, training: dict[str, Any], measured: dict[str, Any]
) -> dict[str, Any]:
    """Write model.json into `folder`.

    `measured` maps an artefact's key, and `torch_fp32`, to what was measured of it.
    """
    served = ARTEFACTS[model.name][0]
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME
    )
    document: dict[str, Any] = {
        "name": model.name,
        "architecture": "llama",
        "params_count": model.shape.params_count,
        "context_length": model.shape.context_length,
        "quantization": served.dtype,
        "served_artefact": served.key,
        "task_quality": measured[served.key]["task_quality"],
        "seed": SEED,
        "recipe_sha256": training["recipe_sha256"],
        "training": {key: value for key, value in training.items() if key != "recipe_sha256"},
        "artefacts": {
            artefact.key: {
                "path": artefact.path,
                "runtime": artefact.runtime,
                "dtype": artefact.dtype,
                **measured[artefact.key],
            }
            for artefact in ARTEFACTS[model.name]
        },
        "reference": measured["torch_fp32"],
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": sha256_of(path),
                "size_bytes": path.stat().st_size,
            }
            for path in paths
        },
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def read(folder: Path) -> dict[str, Any]:
    """The model.json in `folder`."""
    document: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    return document
