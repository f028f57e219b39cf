"""Decides which files of a model hub's repository make up one model we can serve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from farthing.inference.store.onnx_folder import CONFIG_FILES, GRAPH_PATHS
from farthing.kit.errors import InvalidArgument, Unimplemented

_HUB_ID = re.compile(
    r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?(?::(?P<selector>[\w][\w./-]*))?",
    re.ASCII,
)
# A graph's large weights may lie beside it: Optimum and the exporters of torch use these endings.
_WEIGHT_SUFFIXES = ("_data", ".data")
_SPLIT_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class HubId:
    """`owner/repository[@revision][:selector]`; a selector is a file name or a quantization such as Q4_K_M."""

    repository: str
    revision: str = ""
    selector: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        selector = f":{self.selector}" if self.selector else ""
        return f"{self.repository}{revision}{selector}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub lists it; `sha256` is empty for small files, which the hub does not hash so."""

    path: str
    size_bytes: int
    sha256: str


def parse_hub_id(text: str) -> HubId | None:
    """The hub id in a text, or None when it is not of that form."""
    match = _HUB_ID.fullmatch(text)
    if match is None:
        return None
    return HubId(match["repository"], match["revision"] or "", match["selector"] or "")


def choose_files(hub_id: HubId, listing: Sequence[HubFile]) -> list[HubFile]:
    """The files to fetch: one GGUF file, or an ONNX graph with its weights and configuration.

    InvalidArgument lists the choices when the id does not decide; Unimplemented when there is nothing for us.
    """
    ggufs = [f for f in listing if f.path.endswith(".gguf") and "mmproj" not in f.path.lower()]
    graphs = [f for f in listing if f.path.endswith(".onnx")]
    if hub_id.selector:
        wanted = hub_id.selector.lower()
        exact = [f for f in (*ggufs, *graphs) if f.path.lower() == wanted]
        chosen = exact or [f for f in (*ggufs, *graphs) if _is_variant(f.path, wanted)]
    elif ggufs:
        chosen = ggufs
    else:
        chosen = [f for name in GRAPH_PATHS for f in graphs if f.path == name][:1]
    if not ggufs and not graphs:
        raise Unimplemented(
            f"{hub_id} has no GGUF or ONNX files; choose a repository that publishes one of them",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"source": str(hub_id)},
        )
    if len(chosen) != 1:
        names = ", ".join(f.path for f in (*ggufs, *graphs)[:12])
        found = f"{len(chosen)} files match" if chosen else "no file matches"
        raise InvalidArgument(
            f"{hub_id}: {found}; name one after a colon ({hub_id.repository}:FILE) out of: {names}",
            field="source",
            reason="MODEL_AMBIGUOUS" if chosen else "MODEL_FILE_NOT_FOUND",
            metadata={"source": str(hub_id)},
        )
    main = chosen[0]
    if main.path.endswith(".gguf"):
        if _SPLIT_PART.search(main.path):
            raise Unimplemented(
                f"{main.path} is one part of several; choose a smaller quantization in a single file",
                reason="MODEL_SPLIT_UNSUPPORTED",
                metadata={"source": str(hub_id)},
            )
        return [main]
    return [main, *_beside(main, listing)]


def _is_variant(path: str, wanted: str) -> bool:
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0].lower()
    return (
        path.lower().endswith("/" + wanted)
        or re.search(rf"(^|[._-]){re.escape(wanted)}$", stem) is not None
    )


def _beside(graph: HubFile, listing: Sequence[HubFile]) -> list[HubFile]:
    weights = tuple(graph.path + suffix for suffix in _WEIGHT_SUFFIXES)
    return [f for f in listing if f.path in CONFIG_FILES or f.path.startswith(weights)]
