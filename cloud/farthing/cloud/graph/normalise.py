"""Brings a decoder graph into the plain form that the finders expect, whoever exported it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from farthing.cloud.graph.document import Document, NotConvertible, attribute

_WITH_SUBGRAPHS = frozenset({"If", "Loop", "Scan"})


def normalised(model: onnx.ModelProto, folder: Path) -> Document:
    """One flat graph: no functions, no branches, constants as weights, nothing that only renames.

    `model` is changed. NotConvertible when a branch or a loop stays.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    _take_cached_branch(model.graph)
    document = Document(model, folder)
    _lift_constants(document)
    _drop_identities(document)
    for node in document.nodes:
        if node.op_type in _WITH_SUBGRAPHS:
            raise NotConvertible(f"the graph branches or loops ({node.op_type} {node.name!r})")
    document.index()
    return document


def _take_cached_branch(graph: onnx.GraphProto) -> None:
    """Merged exports hold the decoder twice, chosen by `use_cache_branch`; the one with a cache does for both."""
    for place, node in enumerate(graph.node):
        if node.op_type == "If" and list(node.input) == ["use_cache_branch"]:
            branch = attribute(node, "then_branch")
            if branch is None or len(branch.output) != len(node.output):
                raise NotConvertible("the merged graph's branches have other outputs than it")
            result = dict(zip((o.name for o in branch.output), node.output, strict=True))
            taken = list(branch.node)
            for inner in taken:
                for names in (inner.input, inner.output):
                    for at, name in enumerate(names):
                        names[at] = result.get(name, name)
            others = [n for at, n in enumerate(graph.node) if at != place]
            weights = list(branch.initializer)
            del graph.node[:]
            graph.node.extend([*others, *taken])
            graph.initializer.extend(weights)
            return


def _lift_constants(document: Document) -> None:
    kept = []
    for node in document.nodes:
        if node.op_type != "Constant" or node.domain:
            kept.append(node)
            continue
        name, entry = node.output[0], node.attribute[0]
        if entry.name == "value":
            tensor = entry.t
            tensor.name = name
            document.weights[name] = tensor
            continue
        kinds: dict[str, Any] = {"value_int": np.int64, "value_ints": np.int64}
        kinds |= {"value_float": np.float32, "value_floats": np.float32}
        if entry.name not in kinds:
            raise NotConvertible(f"a constant of kind {entry.name}")
        values = np.asarray(attribute(node, entry.name), kinds[entry.name])
        document.weights[name] = numpy_helper.from_array(values, name)
    document.nodes = kept
    document.index()


def _drop_identities(document: Document) -> None:
    kept = []
    for node in document.nodes:
        if node.op_type != "Identity" or node.domain:
            kept.append(node)
            continue
        old, source = node.output[0], node.input[0]
        if old in document.outputs:
            maker = document.maker.get(source)
            if maker is None or source in document.outputs:
                kept.append(node)
                continue
            # The output keeps its name: its true maker takes it over.
            for place, name in enumerate(maker.output):
                if name == source:
                    maker.output[place] = old
            document.rename_reads(source, old)
        else:
            document.rename_reads(old, source)
        document.nodes = [n for n in document.nodes if n is not node]
        document.index()
    document.nodes = kept
    document.index()
