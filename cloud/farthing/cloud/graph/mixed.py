"""The mixed variant of the slot form: two groups of rows in one run, such as single tokens and prompts beside them.

`input_ids` is [1, tokens], the first group's rows × count and then the second's, and so are all values on the way, so
that the products read the weights once for both; only attention looks at the groups, each [rows, count] in itself.
Each has lengths and a cache of its own, the second's under names with "beside"; `group_shape` is [rows, count, -1],
`group_token_counts` both products. Without a second group `has_beside` is false, and its caches have no rows.
(Selective batching: Yu et al., Orca, OSDI 2022.)
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from farthing.cloud.graph.document import Document, attribute
from farthing.cloud.graph.names import (
    HAS_BESIDE,
    LENGTHS,
    SHAPE,
    TOKEN_COUNTS,
    TOTAL,
    beside,
)

_QUERY_KEY_VALUE, _CACHES, _LENGTHS, _TOTAL = range(3), range(3, 5), 5, 6


def mix(document: Document) -> None:
    """Brings a pruned document in slot form into the mixed variant. Nothing else may be rewritten after it."""
    document.nodes = [
        _either_way(document, node) if node.op_type == "GroupQueryAttention" else node
        for node in document.nodes
    ]
    value = helper.make_tensor_value_info
    for name in ("input_ids", "position_ids"):
        if name in document.inputs:
            document.inputs[name] = value(name, TensorProto.INT64, [1, "tokens"])
    document.inputs |= {
        beside(LENGTHS): value(beside(LENGTHS), TensorProto.INT32, ["rows_beside"]),
        beside(TOTAL): value(beside(TOTAL), TensorProto.INT32, []),
        SHAPE: value(SHAPE, TensorProto.INT64, [3]),
        beside(SHAPE): value(beside(SHAPE), TensorProto.INT64, [3]),
        TOKEN_COUNTS: value(TOKEN_COUNTS, TensorProto.INT64, [2]),
        HAS_BESIDE: value(HAS_BESIDE, TensorProto.BOOL, []),
    }
    for infos, start in (
        (document.inputs, "past_key_values."),
        (document.outputs, "present."),
    ):
        for name in [name for name in infos if name.startswith(start)]:
            tensor = infos[name].type.tensor_type
            sizes = [size.dim_param or size.dim_value for size in tensor.shape.dim]
            shape = ["rows_beside", *sizes[1:]]
            infos[beside(name)] = value(beside(name), tensor.elem_type, shape)
    document.index()


def _either_way(document: Document, node: onnx.NodeProto) -> onnx.NodeProto:
    """An If in the attention's place. The library's attention takes no group without rows."""
    kind = document.inputs[node.input[_CACHES[0]]].type.tensor_type.elem_type
    result, *grown = node.output
    outputs = [result, *grown, *map(beside, grown)]
    return helper.make_node(
        "If",
        [HAS_BESIDE],
        outputs,
        then_branch=_Branch(document, node, kind).of_two(),
        else_branch=_Branch(document, node, kind).of_one(),
    )


class _Branch:
    """A graph that computes an attention's results for one or two groups."""

    def __init__(self, document: Document, attention: onnx.NodeProto, kind: int) -> None:
        self._document, self._attention, self._kind = document, attention, kind
        self._nodes: list[onnx.NodeProto] = []
        shape = document.inputs[attention.input[_CACHES[0]]].type.tensor_type.shape
        self._width = int(attribute(attention, "num_heads")) * shape.dim[3].dim_value
        self._flat = document.constant("flat", [1, -1, self._width])
        self._tokens = [attention.input[place] for place in _QUERY_KEY_VALUE]

    def of_one(self) -> onnx.GraphProto:
        """All tokens are the first group's."""
        mixed, grown = self._attend(self._tokens, second=False)
        untouched = [
            self._add("Identity", [beside(self._attention.input[place])]) for place in _CACHES
        ]
        return self._finished([mixed, *grown, *untouched])

    def of_two(self) -> onnx.GraphProto:
        """Cuts the tokens in two and joins what comes of them."""
        parts: list[tuple[str, str]] = []
        for name in self._tokens:
            if name:
                pair = (self._document.fresh("first"), self._document.fresh("second"))
                self._nodes.append(
                    helper.make_node("Split", [name, TOKEN_COUNTS], list(pair), axis=1)
                )
                parts.append(pair)
            else:
                parts.append(("", ""))
        first, grown = self._attend([pair[0] for pair in parts], second=False)
        second, grown_beside = self._attend([pair[1] for pair in parts], second=True)
        mixed = self._add("Concat", [first, second], axis=1)
        return self._finished([mixed, *grown, *grown_beside])

    def _attend(self, tokens: list[str], *, second: bool) -> tuple[str, list[str]]:
        """The results as [1, tokens, heads × head], and the cache of one group after it."""

        def own(name: str) -> str:
            return beside(name) if second else name

        node = onnx.NodeProto()
        node.CopyFrom(self._attention)
        node.ClearField("name")
        for place, name in enumerate(tokens):
            if name:
                node.input[place] = self._add("Reshape", [name, own(SHAPE)])
        for place in (*_CACHES, _LENGTHS, _TOTAL):
            node.input[place] = own(node.input[place])
        names = [self._document.fresh("attended") for _ in node.output]
        del node.output[:]
        node.output.extend(names)
        self._nodes.append(node)
        return self._add("Reshape", [names[0], self._flat]), names[1:]

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = self._document.fresh(kind.lower())
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _finished(self, outputs: list[str]) -> onnx.GraphProto:
        value = helper.make_tensor_value_info
        mixed = value(outputs[0], self._kind, [1, "tokens", self._width])
        caches = [value(name, self._kind, None) for name in outputs[1:]]
        return helper.make_graph(
            self._nodes, self._document.fresh("branch"), [], [mixed, *caches]
        )
