"""Finds the files that an ONNX graph keeps weights in, and proves that they are the folder's own and long enough."""

from __future__ import annotations

from pathlib import Path

from farthing.inference.store.onnx_folder import invalid_folder
from farthing.inference.store.onnx_wire import all_tensors, map_graph
from farthing.inference.store.plain_paths import place_inside
from farthing.kit.errors import InvalidArgument

_MOST_FILE_COUNT = 10_000


def external_files(graph: Path) -> list[Path]:
    """The files beside or below `graph` that hold its weights, in order of name.

    InvalidArgument when one lies elsewhere, is missing, or ends before the weights in it.
    """
    ends = _read_ends(graph)
    found = []
    for location, end_bytes in sorted(ends.items()):
        path = _place_beside(graph, location)
        if not path.is_file():
            raise invalid_folder(
                graph.parent,
                f"{graph.name} keeps weights in {location!r}, which is missing",
                "copy it too",
            )
        size_bytes = path.stat().st_size
        if size_bytes < end_bytes:
            raise InvalidArgument(
                f"{path.name} has {size_bytes} bytes and {graph.name} wants {end_bytes} of it; it is truncated, "
                "fetch it again",
                field="source",
                reason="MODEL_CORRUPT",
                metadata={"path": str(path)},
            )
        found.append(path)
    return found


def _read_ends(graph: Path) -> dict[str, int]:
    """By location as written in the graph: one past the last byte wanted of the file."""
    ends: dict[str, int] = {}
    with map_graph(graph) as data:
        for tensor in all_tensors(data):
            if tensor.external is None:
                continue
            location = tensor.external.get("location", "")
            offset, length = (
                int(tensor.external.get(key, "0")) for key in ("offset", "length")
            )
            if offset < 0 or length < 0:
                raise ValueError("weights before the file's beginning")
            ends[location] = max(ends.get(location, 0), offset + length)
            if len(ends) > _MOST_FILE_COUNT:
                raise ValueError("weights in too many files")
    return ends


def _place_beside(graph: Path, location: str) -> Path:
    """The file meant; the graph of a stranger may ask for any file of this machine."""
    try:
        return place_inside(graph.parent, location)
    except ValueError:
        raise InvalidArgument(
            f"{graph.name} keeps weights in {location[:80]!r}, which is not beside it; export it again with its "
            "weights in its own folder",
            field="source",
            reason="MODEL_CORRUPT",
            metadata={"path": str(graph)},
        ) from None
