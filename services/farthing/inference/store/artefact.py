"""Looks at a file or folder and tells which model it is and which files belong to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.inference.store.facts import ModelFacts, ModelFormat
from farthing.inference.store.files import FileRecord, hash_file
from farthing.inference.store.gguf import check_gguf
from farthing.inference.store.json_files import read_object
from farthing.inference.store.onnx_check import check_onnx
from farthing.inference.store.onnx_external import external_files
from farthing.inference.store.onnx_folder import CONFIG_FILES, find_graph, folder_of
from farthing.kit.errors import InvalidArgument, NotFound

CARD_NAME = "model.json"
MOST_CARD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model on disk: `folder` holds `files`; `main` is what an engine opens.

    That is the GGUF file, the ONNX model's folder, or the graph when the source named one.
    """

    format: ModelFormat
    folder: Path
    main: Path
    files: tuple[Path, ...]

    def relative(self, path: Path) -> str:
        """A file's path inside the folder, with forward slashes."""
        return path.relative_to(self.folder).as_posix()

    def records(self) -> list[FileRecord]:
        """Size and sha256 of every file: reads all of it."""
        return [
            FileRecord(self.relative(p), p.stat().st_size, hash_file(p)) for p in self.files
        ]

    def check(self) -> ModelFacts:
        """Proves that an engine can open it; facts, or the error that says why not."""
        if self.format == "gguf":
            return check_gguf(self.main)
        return check_onnx(self.folder, find_graph(self.main))


def find_artefact(source: Path) -> Artefact:
    """The model at a path: a GGUF file, an ONNX graph, or a folder with either.

    Of the content only an ONNX graph's list of weight files is read.
    """
    if not source.exists():
        raise NotFound(
            f"there is no file or folder {source}; check the path",
            reason="MODEL_PATH_NOT_FOUND",
            metadata={"path": str(source)},
        )
    source = source.resolve()
    if source.is_file() and source.suffix.lower() == ".gguf":
        return Artefact("gguf", source.parent, source, (source,))
    if source.is_dir():
        ggufs = sorted(source.glob("*.gguf"))
        has_graph = any(source.glob("*.onnx")) or any(source.glob("onnx/*.onnx"))
        if len(ggufs) == 1 and not has_graph:
            return Artefact("gguf", source, ggufs[0], (ggufs[0],))
        if ggufs and (len(ggufs) > 1 or has_graph):
            names = ", ".join(p.name for p in ggufs)
            raise InvalidArgument(
                f"{source} holds several models ({names}{' and an ONNX graph' if has_graph else ''}); "
                "name one file",
                field="source",
                reason="MODEL_AMBIGUOUS",
                metadata={"path": str(source)},
            )
    elif source.suffix.lower() != ".onnx":
        raise InvalidArgument(
            f"{source} is neither a .gguf file nor an ONNX model folder; those two can be served",
            field="source",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"path": str(source)},
        )
    graph = find_graph(source)
    folder = folder_of(graph)
    main = graph if source.is_file() else folder
    weights = external_files(graph)
    configuration = [folder / name for name in CONFIG_FILES if (folder / name).is_file()]
    if folder / CARD_NAME in weights:
        raise InvalidArgument(
            f"{graph.name} keeps weights in {CARD_NAME}, which is the model card's name; export it again",
            field="source",
            reason="MODEL_CORRUPT",
            metadata={"path": str(graph)},
        )
    return Artefact(
        "onnx", folder, main, tuple(dict.fromkeys((graph, *weights, *configuration)))
    )


def read_card(artefact: Artefact) -> dict[str, Any]:
    """The model card (model.json) beside the model, {} when there is none."""
    path = artefact.folder / CARD_NAME
    if not path.is_file():
        return {}
    try:
        card = read_object(path, MOST_CARD_BYTES)
        json.dumps(card, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return card
    except ValueError as error:
        raise InvalidArgument(
            f"{path} {error}; correct or remove it",
            field="source",
            reason="MODEL_CARD_INVALID",
            metadata={"path": str(path)},
        ) from None
