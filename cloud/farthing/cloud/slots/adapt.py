"""Fits a graph in slot form to its device: the cache's precision, where the likeliest token is found, how runs form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from farthing.cloud.graph.document import Document
from farthing.cloud.graph.mixed import mix
from farthing.cloud.graph.names import BEST
from farthing.cloud.slots.likeliest import NO_TOKEN

# GroupQueryAttention's inputs and outputs.
_PROJECTIONS, _TABLES = range(3), range(7, 9)


def adapted(graph: Path, *, half_cache: bool, best_in_graph: bool, mixed: bool) -> bytes:
    """The graph as the library takes it; its weights stay in its folder.

    `half_cache`: keys and values of a float32 graph in float16, which CUDA's attention needs and which takes half
    the memory. `best_in_graph`: an output with the likeliest token of each row of logits. `mixed`: a run takes two
    groups of rows.
    """
    document = Document(onnx.load(str(graph), load_external_data=False), graph.parent)
    if half_cache:
        _halve_cache(document)
    if best_in_graph:
        _find_best(document)
        document.outputs[BEST] = helper.make_tensor_value_info(
            BEST, TensorProto.INT64, ["wanted"]
        )
    document.index()
    document.prune()
    if mixed:
        mix(document)
    return bytes(document.to_model().SerializeToString())


def _find_best(document: Document) -> None:
    """What `find_likeliest` finds. Operators differ on where NaN stands among numbers, so it is made infinite."""
    infinity = document.constant("infinity", np.inf, np.float32)
    is_number = document.add("Less", ["logits", infinity])
    comparable = document.add("Where", [is_number, "logits", infinity])
    place = document.add("ArgMax", [comparable], axis=1, keepdims=1)
    value = document.add("GatherElements", [comparable, place], axis=1)
    is_finite = document.add("Less", [document.add("Abs", [value]), infinity])
    found = document.add("Where", [is_finite, place, document.constant("none", NO_TOKEN)])
    document.add("Reshape", [found, document.constant("flat", [-1])], [BEST])


def _halve_cache(document: Document) -> None:
    """Casts what goes into each attention, and back what comes out."""
    for node in [n for n in document.nodes if n.op_type == "GroupQueryAttention"]:
        for place in (*_PROJECTIONS, *_TABLES):
            if place < len(node.input) and node.input[place]:
                node.input[place] = document.add(
                    "Cast", [node.input[place]], to=TensorProto.FLOAT16
                )
        whole, half = node.output[0], document.fresh("mixed")
        node.output[0] = half
        document.add("Cast", [half], [whole], to=TensorProto.FLOAT)
    for name, info in (*document.inputs.items(), *document.outputs.items()):
        if name.startswith(("past_key_values.", "present.")):
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    document.index()
