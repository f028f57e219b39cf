"""Where the parts of an Optimum-style model folder lie, and what its JSON files say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.inference.store.json_files import read_object
from farthing.kit.errors import InvalidArgument

GRAPH_PATHS = (
    "model.onnx",
    "onnx/model.onnx",
    "decoder_model_merged.onnx",
    "onnx/decoder_model_merged.onnx",
)
CONFIG_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


# What the contracts can carry.
_MAX_INT32 = (1 << 31) - 1


def invalid_folder(folder: Path, finding: str, fix: str) -> InvalidArgument:
    """The error for a folder that is no complete model."""
    return InvalidArgument(
        f"{folder} is not a usable ONNX model folder: {finding}; {fix}",
        field="source",
        reason="MODEL_INCOMPLETE",
        metadata={"path": str(folder), "finding": finding},
    )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """config.json and generation_config.json, as far as an engine needs them; zero or empty when not given."""

    architecture: str
    context_length: int
    vocab_size: int
    head_count: int
    head_dimension: int
    eos_ids: tuple[int, ...]
    licence: str = ""


def find_graph(folder: Path) -> Path:
    """The graph file of a folder, or of the graph's own path. InvalidArgument when there is none, or two."""
    if folder.is_file():
        return folder
    for relative in GRAPH_PATHS:
        if (folder / relative).is_file():
            return folder / relative
    others = sorted(
        p for p in (*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")) if p.is_file()
    )
    if len(others) == 1:
        return others[0]
    found = ", ".join(str(p.relative_to(folder)) for p in others) or "none"
    raise invalid_folder(
        folder, f"it needs one .onnx graph and has {found}", "name the graph model.onnx"
    )


def folder_of(graph: Path) -> Path:
    """The folder with config.json for a graph: its own, or the one above `onnx/`."""
    here = graph.parent
    if not (here / "config.json").is_file() and (here.parent / "config.json").is_file():
        return here.parent
    return here


def read_config(folder: Path) -> ModelConfig:
    """Reads the folder's configuration. InvalidArgument names the file and what is wrong."""
    config = read_json(folder, "config.json")
    if config.get("is_encoder_decoder"):
        raise invalid_folder(
            folder, "config.json describes an encoder-decoder", "use a decoder-only model"
        )
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **text}
    generation = (
        read_json(folder, "generation_config.json")
        if (folder / "generation_config.json").is_file()
        else {}
    )
    head_count = _integer(config, "num_attention_heads", "n_head")
    width = _integer(config, "hidden_size", "n_embd")
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    return ModelConfig(
        architecture=str(config.get("model_type", "")),
        context_length=_integer(config, "max_position_embeddings", "n_positions", "n_ctx"),
        vocab_size=_integer(config, "vocab_size"),
        head_count=_integer(config, "num_key_value_heads") or head_count,
        head_dimension=_integer(config, "head_dim")
        or (width // head_count if head_count else 0),
        eos_ids=_token_ids(eos),
        licence=licence[:200] if isinstance(licence := config.get("license"), str) else "",
    )


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of the folder. InvalidArgument when it is missing or no JSON object."""
    path = folder / name
    if not path.is_file():
        raise invalid_folder(folder, f"{name} is missing", "copy the whole export")
    try:
        return read_object(path)
    except ValueError as error:
        raise invalid_folder(folder, f"{name} {error}", "export the model again") from None


def _integer(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_INT32:
            return value
    return 0


def _token_ids(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(
        i
        for i in items
        if isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= _MAX_INT32
    )
