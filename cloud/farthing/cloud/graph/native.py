"""Graphs that come with GroupQueryAttention already, as onnxruntime-genai's builder makes them."""

from __future__ import annotations

import numpy as np

from farthing.cloud.graph.document import Document, NotConvertible, attribute
from farthing.cloud.graph.names import LENGTHS, TOTAL
from farthing.cloud.graph.slot_graph import SPARE_POSITIONS
from farthing.inference.store.onnx_signature import DecoderSignature

_LENGTHS_AT, _TOTAL_AT, _COSINES_AT, _BIAS_AT = 5, 6, 7, 10


def is_native(document: Document) -> bool:
    """Whether the graph's caches go into GroupQueryAttention."""
    return any(node.op_type == "GroupQueryAttention" for node in document.nodes)


def take_over(document: Document, signature: DecoderSignature) -> tuple[int, int]:
    """Feeds every GroupQueryAttention with lengths instead of a mask.

    Returns the number of query heads, and of positions in the rotation tables (0 without tables).
    """
    caches = {tensor.past_name for tensor in signature.cache}
    head_counts = set()
    grown: dict[str, str] = {}
    position_counts = set[int]()
    for node in document.nodes:
        if node.op_type != "GroupQueryAttention":
            continue
        if len(node.input) <= _TOTAL_AT or not caches.issuperset(node.input[3:5]):
            raise NotConvertible(f"{node.name or 'an attention'} has no cache of its own")
        if len(node.input) > _BIAS_AT and node.input[_BIAS_AT]:
            raise NotConvertible("the attention takes a mask of its own (attention_bias)")
        head_counts.add(int(attribute(node, "num_heads", 0)))
        node.input[_LENGTHS_AT], node.input[_TOTAL_AT] = LENGTHS, TOTAL
        for place in (_COSINES_AT, _COSINES_AT + 1):
            if place < len(node.input) and node.input[place]:
                name = node.input[place]
                if name not in grown:
                    grown[name] = _grow(document, name)
                    position_counts.add(document.weights[name].dims[0])
                node.input[place] = grown[name]
    if len(head_counts) != 1:
        raise NotConvertible(f"layers with {sorted(head_counts)} query heads")
    document.index()
    return head_counts.pop(), min(position_counts, default=0)


def _grow(document: Document, name: str) -> str:
    """A rotation table with spare positions at its end."""
    values = document.array(name)
    if values.ndim != 2 or len(values) == 0:
        raise NotConvertible(f"the rotation table {name!r} is no matrix")
    last = np.repeat(values[-1:], SPARE_POSITIONS, axis=0)
    return document.constant("table", np.concatenate([values, last]), values.dtype)
