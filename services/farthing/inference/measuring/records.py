"""Keeps what was measured beside the models, and puts variants side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from farthing.inference.measuring.scoring import (
    Agreement,
    Answer,
    compare_answers,
    exact_match,
    measure_speeds,
    summarise_quality,
)
from farthing.inference.measuring.tasks import TaskFile
from farthing.inference.store import ModelStore, StoredModel
from farthing.inference.store.files import report_disk_errors, write_json


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a measurement was made: when, by which command, on which service and machine. Memory 0 is unknown."""

    time: str
    command: str
    address: str
    host: str
    load_average: float
    concurrency: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the comparison. What was never measured is None; `agreement` is with the unquantized variant."""

    name: str
    digest: str
    quantization: str
    size_bytes: int
    measured: Mapping[str, Any] | None
    agreement: Agreement | None
    is_reference: bool


def find_reference(
    store: ModelStore, model: StoredModel, against: str = ""
) -> StoredModel | None:
    """The model whose answers count as the original's: `against`, else what the variant was made of in the end."""
    return store.resolve(against) if against else store.find(model.root_digest)


def record(
    store: ModelStore,
    model: StoredModel,
    file: TaskFile,
    answers: Mapping[str, Answer],
    circumstances: Circumstances,
    reference: StoredModel | None,
) -> StoredModel:
    """Writes answers and figures into the store; the model with its new card."""
    texts = {answer.task_id: answer.text for answer in answers.values()}
    folder = store.contents.answers / model.digest
    with report_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{file.sha256}.json", {"tasks": file.name, "answers": texts})
    quality = summarise_quality(file.tasks, answers)
    speeds = measure_speeds(answers.values())
    agreement = agree(store, model, reference, file.sha256)
    return store.record_measurement(
        model.name,
        {
            **asdict(circumstances),
            "tasks": {"name": file.name, "sha256": file.sha256, "count": len(file.tasks)},
            "task_quality": quality,
            "exact_match_ratio": exact_match(quality),
            "refused_count": sum(answer.refused for answer in answers.values()),
            "size_bytes": model.size_bytes,
            **asdict(speeds),
            "reference": reference.name if reference is not None else "",
            "agreement": asdict(agreement) if agreement is not None else None,
        },
    )


def agree(
    store: ModelStore, model: StoredModel, reference: StoredModel | None, tasks_sha256: str
) -> Agreement | None:
    """How like the reference's a model's answers are; None while either has not answered these tasks."""
    if reference is None:
        return None
    own, theirs = (_read_answers(store, one.digest, tasks_sha256) for one in (model, reference))
    return compare_answers(own, theirs)


def list_variants(
    store: ModelStore, name: str, others: Sequence[str] = (), against: str = ""
) -> list[Variant]:
    """A model's variants, largest first: those made of the same beginning, and the others named."""
    model = store.resolve(name)
    reference = find_reference(store, model, against)
    chosen = {other: store.resolve(other) for other in (name, *others)}
    if against and reference is not None:
        chosen[against] = reference
    for one in store.list():
        if one.root_digest == model.root_digest:
            chosen.setdefault(one.name, one)
    by_digest = {one.digest: one for one in reversed(chosen.values())}
    rows = [_variant(store, one, reference) for one in by_digest.values()]
    return sorted(rows, key=lambda row: (not row.is_reference, -row.size_bytes, row.name))


def _variant(store: ModelStore, model: StoredModel, reference: StoredModel | None) -> Variant:
    measured = model.measured or None
    sha256 = str((measured or {}).get("tasks", {}).get("sha256", ""))
    return Variant(
        name=model.name,
        digest=model.digest,
        quantization=model.facts.quantization if model.facts is not None else "",
        size_bytes=model.size_bytes,
        measured=measured,
        agreement=agree(store, model, reference, sha256) if sha256 else None,
        is_reference=reference is not None and reference.digest == model.digest,
    )


def _read_answers(store: ModelStore, digest: str, tasks_sha256: str) -> dict[str, str]:
    path = store.contents.answers / digest / f"{tasks_sha256}.json"
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))["answers"]
        return {str(key): str(value) for key, value in answers.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
