from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.plain_gguf import write_gguf

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.memory_need import check_memory, count_kv_values, estimate_memory
from farthing.edge.plan import Adapter, LoadPlan
from farthing.edge.shape import shape_context
from farthing.inference.store.gguf import GgufHeader, Tensor, read_header
from farthing.kit.errors import FailedPrecondition

MakePlan = Callable[..., LoadPlan]


@pytest.mark.parametrize("model", ["F16", "Q8_0", "window", "recurrent", "demo"])
@pytest.mark.parametrize("changes", [{}, {"kv_type": "q8_0"}, {"slot_count": 1}])
def test_the_estimate_is_what_loading_takes(
    plan_for: MakePlan, model: str, changes: dict[str, Any]
) -> None:
    plan = plan_for(model, context_length=300, **changes)
    need = check_memory(plan)
    backend = LlamaBatchBackend(plan)
    assert need.weights_bytes == backend.weights_bytes
    if model != "recurrent":
        assert need.kv_bytes == backend.kv_bytes
    backend.close()


def test_keys_and_values_are_counted_by_the_shapes_of_their_projections() -> None:
    assert count_kv_values(read_header_of_kind("separate")) == 2 * 128
    assert count_kv_values(read_header_of_kind("together")) == 2 * 128
    assert count_kv_values(read_header_of_kind("compressed")) == 576
    assert count_kv_values(read_header_of_kind("recurrent")) == 0


def read_header_of_kind(kind: str) -> GgufHeader:
    """One layer of width 1,024 whose attention keeps 128 keys and 128 values, or what its kind keeps."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "separate": {
            "attn_q": (1_024, 1_024),
            "attn_k": (1_024, 128),
            "attn_v": (1_024, 128),
        },
        "together": {"attn_qkv": (1_024, 1_280), "attn_output": (1_024, 1_024)},
        "compressed": {"attn_kv_a_mqa": (1_024, 576), "attn_k_b": (128, 512, 16)},
        "recurrent": {"ssm_in": (1_024, 4_096)},
    }
    tensors = [
        Tensor(f"blk.0.{name}.weight", shape, "F16", 0, 0)
        for name, shape in shapes[kind].items()
    ]
    return GgufHeader(3, {}, {}, tuple(tensors))


def test_separate_attention_writes_out_what_every_head_sees(
    plan_for: MakePlan, model_paths: dict[str, Path]
) -> None:
    header = read_header(model_paths["F16"])
    plan = plan_for("F16")
    fused, separate = (
        estimate_memory(header, replace(plan, flash_attention=choice), "x86_64")
        for choice in ("on", "off")
    )
    head_count = 2
    assert separate.step_bytes - fused.step_bytes == head_count * 256 * 256 * 4


def test_too_small_a_limit_is_refused_before_loading(
    plan_for: MakePlan, tmp_path: Path
) -> None:
    unloadable = write_gguf(tmp_path / "unloadable.gguf")
    plan = plan_for("F16", path=unloadable, memory_limit_bytes=1_000)
    with pytest.raises(FailedPrecondition) as caught:
        LlamaBatchBackend(plan)
    error = caught.value
    assert error.reason == "MEMORY_LIMIT_EXCEEDED"
    assert "FARTHING_EDGE_MEMORY_LIMIT_BYTES=1000" in error.message
    parts = [int(error.metadata[name]) for name in error.metadata if name.endswith("_bytes")]
    total = int(error.metadata["total_bytes"])
    assert sum(parts) == 2 * total + 1_000


def test_a_limit_that_fits_is_no_obstacle(plan_for: MakePlan) -> None:
    plan = plan_for("F16")
    limit = check_memory(plan).total_bytes
    LlamaBatchBackend(replace(plan, memory_limit_bytes=limit)).close()


def test_adapters_count(plan_for: MakePlan, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(bytes(123))
    assert check_memory(plan_for("F16", adapters=(Adapter("a", file),))).adapter_bytes == 123


@pytest.mark.parametrize(
    ("changes", "machine", "choice"),
    [
        ({"context_length": 4_096}, "x86_64", "off"),
        ({"context_length": 4_096}, "aarch64", "auto"),
        ({"context_length": 512}, "x86_64", "auto"),
        ({"context_length": 4_096, "shared_kv": True}, "x86_64", "auto"),
        ({"context_length": 4_096, "kv_type": "q8_0"}, "x86_64", "on"),
        ({"context_length": 4_096, "flash_attention": "on"}, "x86_64", "on"),
        ({"context_length": 16, "flash_attention": "off"}, "aarch64", "off"),
    ],
)
def test_attention_is_chosen_by_what_measured_faster(
    plan_for: MakePlan, changes: dict[str, Any], machine: str, choice: str
) -> None:
    assert shape_context(plan_for("F16", **changes), 8_192, machine).flash_attention == choice


def test_the_shape_is_cut_to_the_training_and_rounded_up_to_cells(plan_for: MakePlan) -> None:
    shape = shape_context(plan_for("F16", context_length=4_096), 1_000, "x86_64")
    assert shape.slot_token_capacity == 1_000
    assert (shape.token_capacity, shape.cell_count) == (6_000, 6 * 1_024)
    pool = plan_for("F16", context_length=4_096, shared_kv=True, pool_token_capacity=1_500)
    shape = shape_context(pool, 4_096, "x86_64")
    assert shape.slot_token_capacity == shape.token_capacity == 1_500
    assert shape.cell_count == 1_536
    tight = shape_context(plan_for("F16", step_token_capacity=1), 4_096, "x86_64")
    assert tight.step_token_capacity == 7
