"""Makes a smaller variant of a stored model, and stores it with where it came from."""

from __future__ import annotations

import json
import os
import platform
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

from farthing.inference.store.artefact import find_artefact
from farthing.inference.store.child import ChildEnd, run_module
from farthing.inference.store.contents import StoredModel, require_name
from farthing.inference.store.files import (
    AddProgress,
    ProgressCallback,
    ignore_progress,
    report_disk_errors,
    require_room,
)
from farthing.inference.store.gguf import read_header
from farthing.inference.store.onnx_folder import CONFIG_FILES
from farthing.inference.store.publish import Origin
from farthing.inference.store.quantization import (
    FILE_TYPE_NUMBERS,
    parse_kind,
    require_rows,
    require_unquantized,
    variant_name,
)
from farthing.inference.store.store import ModelStore
from farthing.inference.store.workplaces import private_folder
from farthing.kit.clock import Clock, SystemClock
from farthing.kit.errors import FailedPrecondition

# Run as `python -m MODULE SOURCE TARGET KIND`: takes an ONNX folder and writes another one.
ONNX_QUANTIZER = "farthing.cloud.quantize"
# Speaks of another artefact than the one that is made.
_CARD_OF_ONE_ARTEFACT = {"artefacts", "files", "reference", "served_artefact", "task_quality"}


class Quantizer:
    """Quantizes models of one store. Blocking, with a process for each."""

    def __init__(
        self,
        store: ModelStore,
        *,
        clock: Clock | None = None,
        onnx_quantizer: str = ONNX_QUANTIZER,
    ) -> None:
        self._store, self._clock = store, clock or SystemClock()
        self._onnx_quantizer = onnx_quantizer

    def quantize(
        self,
        name: str,
        to: str,
        *,
        new_name: str = "",
        replace: bool = False,
        timeout_s: float = 3_600.0,
        thread_count: int = 0,
        progress: ProgressCallback = ignore_progress,
    ) -> StoredModel:
        """A new model in the store; its name is the old one's with the quantization in it unless given.

        InvalidArgument: no such quantization, rows that do not fit it, or a model that is quantized already.
        FailedPrecondition: a library is missing, the process failed, or took longer than `timeout_s`.
        """
        model = self._store.resolve(name)
        kind = parse_kind(model, to)
        new_name = new_name or variant_name(name, kind)
        require_name(new_name)
        require_unquantized(model, self._origin_name(model))
        if model.format == "gguf":
            require_rows(model, kind, read_header(model.path).tensors)
        with private_folder(self._store.contents, "quantize") as folder:
            require_room(folder, model.size_bytes)
            if model.format == "gguf":
                made = folder / f"{new_name}.gguf"
                threads = thread_count or len(os.sched_getaffinity(0))
                tool = _run_llama(model, made, kind, threads, timeout_s, progress)
            else:
                made = folder / "model"
                tool = self._run_onnx(model, made, kind, timeout_s, progress)
            origin = Origin(
                source=f"quantized:{name}",
                artefact=find_artefact(made),
                owned=True,
                card=_card_for(model, kind),
                provenance=self._provenance(model, kind, tool),
            )
            return self._store.publish(origin, new_name, replace=replace, progress=progress)

    def _origin_name(self, model: StoredModel) -> str:
        origin = self._store.find(str(model.derived_from.get("digest", "")))
        return origin.name if origin is not None else ""

    def _provenance(self, model: StoredModel, kind: str, tool: str) -> dict[str, Any]:
        return {
            "licence": model.provenance.get("licence", ""),
            "derived_from": {
                "name": model.name,
                "digest": model.digest,
                "root_digest": model.root_digest,
                "quantization": kind,
                "tool": tool,
                "host": platform.node(),
                "make_time": self._clock.now().isoformat(),
            },
        }

    def _run_onnx(
        self,
        model: StoredModel,
        target: Path,
        kind: str,
        timeout_s: float,
        progress: ProgressCallback,
    ) -> str:
        if not _is_importable(self._onnx_quantizer):
            raise FailedPrecondition(
                f"quantizing an ONNX model needs {self._onnx_quantizer}: pip install 'farthing[cloud]'",
                reason="EXTRA_MISSING",
                metadata={"extra": "cloud"},
            )
        progress(AddProgress("quantize", model.name, 0, 0))
        arguments = [str(model.path), str(target), kind]
        end = run_module(
            self._onnx_quantizer, arguments, timeout_s=timeout_s, on_line=lambda line: None
        )
        _require_done(model, end, timeout_s)
        with report_disk_errors(target):
            for name in CONFIG_FILES:
                if (model.path / name).is_file() and not (target / name).exists():
                    copyfile(model.path / name, target / name)
        return self._onnx_quantizer


def _run_llama(
    model: StoredModel,
    target: Path,
    kind: str,
    thread_count: int,
    timeout_s: float,
    progress: ProgressCallback,
) -> str:
    """Quantizes a GGUF file; the tool's name and version."""
    if not _is_importable("llama_cpp"):
        raise FailedPrecondition(
            "quantizing a GGUF model needs llama.cpp: pip install 'farthing[edge]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "edge"},
        )
    result: dict[str, Any] = {}

    def on_line(line: str) -> None:
        said = json.loads(line) if line.startswith("{") else {}
        if "status" in said:
            result.update(said)
        elif "tensor" in said:
            progress(
                AddProgress("quantize", said["tensor"], said["done_count"], said["total_count"])
            )

    number = FILE_TYPE_NUMBERS[kind]
    arguments = [str(model.path), str(target), str(number), str(thread_count)]
    module = "farthing.inference.store.quantize_gguf"
    end = run_module(module, arguments, timeout_s=timeout_s, on_line=on_line)
    _require_done(model, end, timeout_s, str(result.get("error", "")))
    return str(result["tool"])


def _require_done(
    model: StoredModel, end: ChildEnd, timeout_s: float, finding: str = ""
) -> None:
    if end.status == 0 and not end.timed_out:
        return
    if end.timed_out:
        what = f"took longer than {timeout_s:g} s; give it more with --timeout"
    else:
        what = f"failed (status {end.status}: {finding or end.last_words or 'no message'})"
    raise FailedPrecondition(
        f"quantizing {model.name} {what}",
        reason="QUANTIZATION_FAILED",
        metadata={"model": model.name, "status": str(end.status)},
    )


def _card_for(model: StoredModel, kind: str) -> dict[str, Any]:
    kept = {key: v for key, v in model.card.items() if key not in _CARD_OF_ONE_ARTEFACT}
    return {**kept, "quantization": kind} if kept else {}


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
