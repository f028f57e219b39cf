"""Fits a graph in slot form to its device: the cache's precision, and where the likeliest token is found."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from farthing.cloud.graph.document import Document
from farthing.cloud.graph.names import BEST

# GroupQueryAttention's inputs and outputs.
_PROJECTIONS, _TABLES = range(3), range(7, 9)


def adapted(graph: Path, *, half_cache: bool, best_in_graph: bool) -> bytes:
    """The graph as the library takes it; its weights stay in its folder.

    `half_cache`: keys and values of a float32 graph in float16, which CUDA's attention needs and which takes half
    the memory. `best_in_graph`: an output with the likeliest token of each row of logits.
    """
    document = Document(onnx.load(str(graph), load_external_data=False), graph.parent)
    if half_cache:
        _halve_cache(document)
    if best_in_graph:
        document.add("ArgMax", ["logits"], [BEST], axis=-1, keepdims=0)
        document.outputs[BEST] = helper.make_tensor_value_info(
            BEST, TensorProto.INT64, ["wanted"]
        )
    document.index()
    document.prune()
    return bytes(document.to_model().SerializeToString())


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
