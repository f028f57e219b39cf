"""Graphs of many exporters come into slot form, are proven, and what is different is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.cloud.conftest import DEMO
from tests.support.tiny_gqa import save_grouped_model
from tests.support.tiny_onnx import CONTEXT, Shape, save_model

from farthing.cloud.graph import prove
from farthing.cloud.graph.convert import SlotGraph, convert
from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.graph.facts import graph_signature
from farthing.cloud.graph.mixed import mix
from farthing.cloud.graph.names import LENGTHS, beside
from farthing.inference.store.onnx_folder import find_graph, folder_of, read_config


def converted(folder: Path, target: Path, context: int = CONTEXT) -> SlotGraph:
    graph = find_graph(folder)
    signature = graph_signature(graph, read_config(folder_of(graph)))
    target.mkdir()
    return convert(graph, target, signature, context)


def kinds_of(form: SlotGraph) -> list[str]:
    model = onnx.load(str(form.folder / "graph.onnx"), load_external_data=False)
    return [node.op_type for node in model.graph.node]


def edit(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    path = folder / "model.onnx"
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))


def test_attention_rotation_and_mask_become_one_operator_for_each_layer(tmp_path: Path) -> None:
    form = converted(DEMO, tmp_path / "form", 1024)
    kinds = kinds_of(form)
    assert kinds.count("GroupQueryAttention") == form.layers == 4
    assert not {"Softmax", "Where", "Range", "Neg"} & set(kinds)
    assert (form.kv_heads, form.head_dimension, form.dtype) == (2, 32, "float32")
    assert not form.has_position_ids


@pytest.mark.parametrize("write", [save_model, save_grouped_model])
def test_two_groups_of_rows_share_a_run_where_that_answers_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "model")
    assert converted(tmp_path / "model", tmp_path / "form").can_mix

    def mix_wrongly(document: Document) -> None:
        mix(document)
        for node in document.nodes:
            if node.op_type == "If":  # the second group looks at the first one's lengths
                (two,) = (a.g for a in node.attribute if a.name == "then_branch")
                for inner in two.node:
                    names = list(inner.input)
                    del inner.input[:]
                    inner.input.extend(
                        LENGTHS if name == beside(LENGTHS) else name for name in names
                    )

    monkeypatch.setattr(prove, "mix", mix_wrongly)
    form = converted(tmp_path / "model", tmp_path / "other")
    assert not form.can_mix
    assert "over slots" in form.how  # as good as before otherwise


def test_the_original_is_left_untouched(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    converted(tmp_path / "model", tmp_path / "form")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def test_heads_that_the_library_cannot_rotate_keep_the_graphs_own_rotation(
    tmp_path: Path,
) -> None:
    save_model(tmp_path / "model", shape=Shape(head=8))
    form = converted(tmp_path / "model", tmp_path / "form")
    assert form.has_position_ids
    assert "multiple of 16" in form.how


def test_a_window_is_found_by_looking_through_it(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16, window=9))
    form = converted(tmp_path / "model", tmp_path / "form")
    model = onnx.load(str(form.folder / "graph.onnx"), load_external_data=False)
    windows = {
        helper.get_attribute_value(entry)
        for node in model.graph.node
        for entry in node.attribute
        if entry.name == "local_window_size"
    }
    assert windows == {9}


def test_a_scale_of_its_own_is_found(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))

    def double_scale(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if numpy_helper.to_array(tensor).tolist() == 0.25:
                tensor.CopyFrom(numpy_helper.from_array(np.array(0.4, np.float32), tensor.name))

    edit(tmp_path / "model", double_scale)
    form = converted(tmp_path / "model", tmp_path / "form")
    model = onnx.load(str(form.folder / "graph.onnx"), load_external_data=False)
    scales = [
        helper.get_attribute_value(entry)
        for node in model.graph.node
        for entry in node.attribute
        if entry.name == "scale"
    ]
    assert scales == pytest.approx([0.4, 0.4], rel=1e-3)


def test_merged_exports_are_taken_by_their_branch_with_a_cache(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))

    def merge(model: onnx.ModelProto) -> None:
        graph = model.graph
        names = [output.name for output in graph.output]
        inner = helper.make_graph(
            list(graph.node), "with", [], [onnx.ValueInfoProto(name=name) for name in names]
        )
        for node in inner.node:
            for place, name in enumerate(node.output):
                node.output[place] = f"inner.{name}"
            for place, name in enumerate(node.input):
                if not _is_outer(graph, name):
                    node.input[place] = f"inner.{name}"
        for output in inner.output:
            output.name = f"inner.{output.name}"
        other = onnx.GraphProto()
        other.CopyFrom(inner)
        choice = helper.make_node(
            "If", ["use_cache_branch"], names, then_branch=inner, else_branch=other
        )
        del graph.node[:]
        graph.node.append(choice)
        graph.input.append(
            helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
        )

    edit(tmp_path / "model", merge)
    form = converted(tmp_path / "model", tmp_path / "form")
    assert kinds_of(form).count("GroupQueryAttention") == form.layers


def _is_outer(graph: onnx.GraphProto, name: str) -> bool:
    known = {i.name for i in graph.input} | {w.name for w in graph.initializer}
    return not name or name in known


def test_weights_in_files_of_their_own_are_shared_not_copied(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))
    model = onnx.load(str(tmp_path / "model/model.onnx"))
    onnx.save(
        model,
        str(tmp_path / "model/model.onnx"),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=64,
    )
    form = converted(tmp_path / "model", tmp_path / "form")
    assert (form.folder / "model.onnx_data").stat().st_nlink == 2


def test_grouped_attention_is_fed_with_lengths_instead_of_a_mask(tmp_path: Path) -> None:
    save_grouped_model(tmp_path / "model")
    form = converted(tmp_path / "model", tmp_path / "form")
    model = onnx.load(str(form.folder / "graph.onnx"), load_external_data=False)
    names = {i.name for i in model.graph.input}
    assert "attention_mask" not in names
    assert {"seqlens_k", "total_sequence_length", "wanted"} <= names
    assert form.position_count == CONTEXT


def add_to_scores(kind: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        """Lets a layer's softmax see something else than scaled scores and the mask."""
        for node in model.graph.node:
            if node.op_type == "Softmax":
                bent = f"bent.{node.output[0]}"
                place = list(model.graph.node).index(node)
                model.graph.node.insert(place, helper.make_node(kind, [node.input[0]], [bent]))
                node.input[0] = bent
                return

    return change


def drop_cache(model: onnx.ModelProto) -> None:
    """Layer 0 forgets what it held: its cache input goes nowhere."""
    for node in model.graph.node:
        if node.op_type == "Concat" and node.input[0] == "past_key_values.0.key":
            node.op_type = "Identity"
            del node.input[0]
            del node.attribute[:]
            return


def swap_cache(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Concat" and node.input[0] == "past_key_values.0.key":
            node.input[0], node.input[1] = node.input[1], node.input[0]
            return


def branch(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("twice", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["logits_before"], ["twice"])
    body = helper.make_graph([node], "body", [], [value])
    for one in model.graph.node:
        for place, name in enumerate(one.output):
            if name == "logits":
                one.output[place] = "logits_before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(
        helper.make_node("If", ["always"], ["logits"], then_branch=body, else_branch=body)
    )


def softmax_logits(model: onnx.ModelProto) -> None:
    for one in model.graph.node:
        for place, name in enumerate(one.output):
            if name == "logits":
                one.output[place] = "logits_before"
    model.graph.node.append(helper.make_node("Softmax", ["logits_before"], ["logits"], axis=1))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (add_to_scores("Tanh"), "something else than causal attention"),
        (add_to_scores("Abs"), "something else than causal attention"),
        (drop_cache, "past_key_values.0.key goes into nothing"),
        (swap_cache, "not joined in front"),
        (branch, "branches or loops"),
        (softmax_logits, "the logits come from Softmax"),
    ],
)
def test_what_is_no_causal_attention_over_a_cache_is_refused_with_the_reason(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], finding: str
) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))
    edit(tmp_path / "model", change)
    with pytest.raises(NotConvertible, match=finding):
        converted(tmp_path / "model", tmp_path / "form")


def test_positions_that_depend_on_other_rows_are_not_taken_for_a_rotation(
    tmp_path: Path,
) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))

    def spread(model: onnx.ModelProto) -> None:
        """Angles shrink with the longest position in the step, as dynamic scaling does."""
        for node in model.graph.node:
            if node.op_type == "Unsqueeze" and node.input[0] == "position_ids":
                place = list(model.graph.node).index(node)
                break
        new = [
            helper.make_node("ReduceMax", ["position_ids"], ["far"], keepdims=1),
            helper.make_node("Mul", ["position_ids", "far"], ["scaled"]),
        ]
        node.input[0] = "scaled"
        for one in reversed(new):
            model.graph.node.insert(place, one)

    edit(tmp_path / "model", spread)
    with pytest.raises(NotConvertible):
        converted(tmp_path / "model", tmp_path / "form")


def test_a_weight_beyond_its_file_or_folder_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(head=16))
    model = onnx.load(str(tmp_path / "model/model.onnx"))
    onnx.save(
        model,
        str(tmp_path / "model/model.onnx"),
        save_as_external_data=True,
        location="weights.data",
        size_threshold=64,
    )
    weights = tmp_path / "model/weights.data"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(NotConvertible, match="reaches beyond"):
        converted(tmp_path / "model", tmp_path / "form")
    aside = onnx.load(str(tmp_path / "model/model.onnx"), load_external_data=False)
    for tensor in aside.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.data"
    (tmp_path / "model/model.onnx").write_bytes(aside.SerializeToString())
    with pytest.raises(NotConvertible, match=r"lies in '\.\./weights\.data'"):
        converted(tmp_path / "model", tmp_path / "other")


@pytest.mark.parametrize(
    ("config", "finding"),
    [
        ({"num_key_value_heads": 10**9}, "heads of size"),
        ({"head_dim": 10**6}, "heads of size"),
        ({"head_dim": 12}, "multiples of 8"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(
    tmp_path: Path, config: dict[str, Any], finding: str
) -> None:
    import json

    folder = tmp_path / "model"
    save_model(folder, shape=Shape(head=16))

    def free(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if "key_values" in value.name or "present" in value.name:
                value.type.tensor_type.shape.dim[1].dim_param = "heads"
                value.type.tensor_type.shape.dim[3].dim_param = "head"

    edit(folder, free)
    written = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(NotConvertible, match=finding):
        converted(folder, tmp_path / "form")
    with pytest.raises(NotConvertible, match="a context of"):
        written["num_key_value_heads"], written["head_dim"] = 2, 16
        (folder / "config.json").write_text(json.dumps(written))
        converted(folder, tmp_path / "other", 1 << 40)
