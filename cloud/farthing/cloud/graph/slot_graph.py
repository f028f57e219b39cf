"""The form that every decoder is brought into: keys and values in slots, lengths as inputs, logits where wanted.

Inputs: `input_ids` [rows, count]; `seqlens_k` [rows], tokens held after the step less one; `total_sequence_length`,
the most of any row; `wanted` [n], which of the rows × count tokens get logits; `position_ids` [rows, count] where the
graph rotates by itself; the cache as [rows, kv heads, slot tokens, head], also returned, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from farthing.cloud.graph.cores import Core, is_projection, projection_input, value_dependent
from farthing.cloud.graph.document import Document, NotConvertible, attribute
from farthing.cloud.graph.names import LENGTHS, TOTAL, WANTED
from farthing.cloud.graph.probes import Attention, Rotation
from farthing.cloud.graph.trial import Array, Heads
from farthing.inference.store.onnx_signature import DecoderSignature

# The rotation tables reach further than the context: the rows of a step that compute nothing write behind their end.
SPARE_POSITIONS = 16
# Between the last projection and the logits: what keeps rows apart.
_ROW_BY_ROW = frozenset({"Cast", "Add", "Sub", "Mul", "Div", "Tanh"})


def give_slots(
    document: Document,
    cores: Sequence[Core],
    attentions: Sequence[Attention],
    heads: Heads,
    rotation: Rotation | None,
) -> None:
    """Puts GroupQueryAttention in the place of each layer's attention; with the rotation in it when that is known."""
    tables = _rotation_tables(document, rotation, heads) if rotation else ()
    own = {core.present_key for core in cores} | {core.present_value for core in cores}
    document.nodes = [n for n in document.nodes if not own & set(n.output)]
    for core, attention in zip(cores, attentions, strict=True):
        if rotation is None:
            inputs = [_by_token(document, n) for n in (attention.query, core.key, core.value)]
        elif core.flat_query == core.flat_key:
            inputs = [core.flat_query, "", ""]
        else:
            inputs = [core.flat_query, core.flat_key, core.flat_value]
        mixed = document.fresh("mixed")
        document.rename_reads(attention.result, mixed)
        document.add(
            "GroupQueryAttention",
            [*inputs, core.past_key, core.past_value, LENGTHS, TOTAL, *tables],
            [mixed, core.present_key, core.present_value],
            contrib=True,
            num_heads=heads.query_count,
            kv_num_heads=heads.key_count,
            scale=attention.scale,
            local_window_size=attention.window or -1,
            do_rotary=int(rotation is not None),
            rotary_interleaved=int(rotation is not None and rotation.interleaved),
        )
    document.index()


def _rotation_tables(document: Document, rotation: Rotation, heads: Heads) -> tuple[str, str]:
    def padded(values: Array) -> Array:
        last = np.repeat(values[-1:], SPARE_POSITIONS, axis=0)
        return np.concatenate([values, last]).astype(heads.dtype)

    return (
        document.constant("cosines", padded(rotation.cosines), heads.dtype),
        document.constant("sines", padded(rotation.sines), heads.dtype),
    )


def _by_token(document: Document, name: str) -> str:
    """[batch, heads, count, head] as [batch, count, heads × head]."""
    maker = document.maker.get(name)
    if (
        maker is not None
        and maker.op_type == "Transpose"
        and (attribute(maker, "perm") == [0, 2, 1, 3])
    ):
        turned = maker.input[0]
    else:
        turned = document.add("Transpose", [name], perm=[0, 2, 1, 3])
    return document.add("Reshape", [turned, document.constant("shape", [0, 0, -1])])


def want_tokens(document: Document, hidden: str, width: int) -> None:
    """Computes logits of wanted tokens only, as float32 [n, vocabulary]; `hidden` is what `head_input` found."""
    dependent = value_dependent(document)
    projection, _ = _head(document, dependent)
    rows = document.add("Reshape", [hidden, document.constant("shape", [-1, width])])
    rows = document.add("Gather", [rows, WANTED], axis=0)
    projection.input[projection_input(projection, dependent)] = rows
    logits = document.outputs["logits"]
    if logits.type.tensor_type.elem_type == TensorProto.FLOAT16:
        half = document.fresh("logits")
        maker = document.maker["logits"]
        for place, name in enumerate(maker.output):
            if name == "logits":
                maker.output[place] = half
        document.add("Cast", [half], ["logits"], to=TensorProto.FLOAT)
    document.index()


def head_input(document: Document) -> str:
    """The hidden states of all tokens, [batch, count, width], that the last projection makes logits from."""
    _, hidden = _head(document, value_dependent(document))
    return hidden


def _head(document: Document, dependent: set[str]) -> tuple[Any, str]:
    name = "logits"
    while True:
        maker = document.maker.get(name)
        if maker is None:
            raise NotConvertible("the logits do not come from a projection")
        if is_projection(maker, dependent):
            break
        sources = [n for n in maker.input if n in dependent]
        if maker.op_type not in _ROW_BY_ROW or len(sources) != 1:
            raise NotConvertible(f"the logits come from {maker.op_type}, not from a projection")
        name = sources[0]
    hidden = maker.input[projection_input(maker, dependent)]
    cut = document.maker.get(hidden)
    if cut is not None and cut.op_type == "Slice":  # newer exports keep the last tokens only
        hidden = cut.input[0]
    return maker, hidden


def declare(document: Document, signature: DecoderSignature, heads: Heads) -> None:
    """Sets inputs and outputs to those of the slot form and drops all that nothing needs any more.

    NotConvertible when the graph still reads what the slot form does not have.
    """
    value = helper.make_tensor_value_info
    document.outputs = {"logits": value("logits", TensorProto.FLOAT, ["wanted", None])}
    offered = {
        "input_ids": value("input_ids", TensorProto.INT64, ["rows", "count"]),
        "position_ids": value("position_ids", TensorProto.INT64, ["rows", "count"]),
        LENGTHS: value(LENGTHS, TensorProto.INT32, ["rows"]),
        TOTAL: value(TOTAL, TensorProto.INT32, []),
        WANTED: value(WANTED, TensorProto.INT64, ["wanted"]),
    }
    for tensor in signature.cache:
        name = tensor.present_name
        shape: list[str | int | None] = [
            "rows",
            tensor.head_count,
            "slot_tokens",
            tensor.head_dimension,
        ]
        offered[tensor.past_name] = value(tensor.past_name, heads.element_type, shape)
        document.outputs[name] = value(name, heads.element_type, shape)
    known = set(document.inputs) - set(offered)
    document.inputs = {**offered, **{name: document.inputs[name] for name in known}}
    document.prune()
    left = sorted(set(document.inputs) - set(offered))
    if left:
        raise NotConvertible(f"the rest of the graph still reads {left[:4]}")
    for tensor in signature.cache:
        kinds = {node.op_type for node in document.readers[tensor.past_name]}
        if kinds != {"GroupQueryAttention"}:
            raise NotConvertible(f"{tensor.past_name} is also read by {sorted(kinds)}")
