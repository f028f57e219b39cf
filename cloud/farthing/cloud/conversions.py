"""Slot forms of graphs, kept on disk: a model is rewritten and proven once, then opened as it is."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farthing.cloud.graph.convert import GRAPH_NAME, SlotGraph, convert
from farthing.cloud.graph.document import NotConvertible
from farthing.inference.store.files import require_room, write_json
from farthing.inference.store.onnx_signature import DecoderSignature

# Raised whenever a conversion of the same graph would come out otherwise.
CONVERTER_VERSION = 2
_RECORD_NAME = "conversion.json"
_MAKING = "making-"
# Room for what is not the weights' own size: the graph, rotation tables.
_ROOM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a graph keeps its own form."""

    finding: str


class Conversions:
    """A folder with one subfolder for each conversion. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def slot_form(
        self, source: Path, digest: str, signature: DecoderSignature, context_length: int
    ) -> SlotGraph | Refusal:
        """The slot form of a model's graph: kept from before, or made now.

        `digest` is the model's; a digest that stands for other content would find the wrong form.
        ResourceExhausted when the disk is full.
        """
        folder = self._root / _key(source, digest, context_length)
        kept = _read(folder)
        if kept is not None:
            return kept
        self._root.mkdir(parents=True, exist_ok=True)
        require_room(self._root, _model_bytes(source) + _ROOM_BYTES)
        self._drop_outdated(source)
        with self._workplace() as making:
            made = _convert(source, making, signature, context_length)
            _write(making, source, made)
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or we would not be here
            try:
                making.rename(folder)
            except OSError:  # another process was faster
                if (other := _read(folder)) is not None:
                    return other
                raise
        result = _read(folder)
        assert result is not None
        return result

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """A folder of this process's own, locked while it lives: what an ended process left is removed by the next."""
        for folder in self._root.glob(f"{_MAKING}*"):
            with contextlib.suppress(OSError), (folder.with_suffix(".lock")).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)
        making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=self._root))
        with making.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield making
            finally:
                shutil.rmtree(making, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)

    def _drop_outdated(self, source: Path) -> None:
        """Removes what was made from an earlier state of this graph, or from graphs that are gone."""
        for record in self._root.glob(f"*/{_RECORD_NAME}"):
            try:
                origin = Path(json.loads(record.read_text(encoding="utf-8"))["source"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if origin == source.resolve() or not origin.exists():
                shutil.rmtree(record.parent, ignore_errors=True)


def _key(source: Path, digest: str, context_length: int) -> str:
    parts = (CONVERTER_VERSION, digest, source.name, _model_bytes(source), context_length)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _model_bytes(source: Path) -> int:
    beside = (
        p for p in source.parent.iterdir() if p.is_file() and p.name.startswith(source.stem)
    )
    return sum(path.stat().st_size for path in beside)


def _convert(
    source: Path, folder: Path, signature: DecoderSignature, context_length: int
) -> SlotGraph | Refusal:
    try:
        return convert(source, folder, signature, context_length)
    except NotConvertible as error:
        finding = str(error)
    except (
        RecursionError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        # A graph that is not what it says; it may still be one that the library can run.
        finding = f"{type(error).__name__}: {error}"
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Refusal(finding[:500])


def _write(folder: Path, source: Path, made: SlotGraph | Refusal) -> None:
    files = {
        str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()
    }
    record: dict[str, Any] = {"source": str(source.resolve()), "files": files}
    if isinstance(made, Refusal):
        record["refusal"] = made.finding
    else:
        facts = asdict(made)
        del facts["folder"]
        record["facts"] = facts
    write_json(folder / _RECORD_NAME, record)


def _read(folder: Path) -> SlotGraph | Refusal | None:
    """What is kept there; None when nothing is, or a file is damaged."""
    try:
        record = json.loads((folder / _RECORD_NAME).read_text(encoding="utf-8"))
        for name, size in record["files"].items():
            if (folder / name).stat().st_size != size:
                return None
        if "refusal" in record:
            return Refusal(str(record["refusal"]))
        if not (folder / GRAPH_NAME).is_file():
            return None
        return SlotGraph(folder=folder, **record["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
