from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny_gguf import write_tiny_lora

from farthing.edge.loading import make_plan, parse_adapters
from farthing.edge.plan import Adapter, LoadPlan
from farthing.edge.settings import EdgeSettings
from farthing.inference.core.card import ModelCard
from farthing.kit.errors import FailedPrecondition, InvalidArgument
from farthing.kit.settings import SettingsError, load


@pytest.fixture
def settings(model_paths: dict[str, Path], tmp_path: Path) -> EdgeSettings:
    return EdgeSettings(model=str(model_paths["F16"]), data_dir=tmp_path, thread_count=1)


def test_settings_reach_the_plan(settings: EdgeSettings, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    plan = make_plan(
        replace(
            settings,
            slot_count=3,
            step_token_capacity=99,
            kv_type="q8_0",
            shared_kv=True,
            pool_token_capacity=700,
            adapters=(f"polite={tmp_path / 'lora.gguf'}@0.5",),
            memory_limit_bytes=1 << 30,
        )
    )
    assert (plan.slot_count, plan.step_token_capacity, plan.kv_type) == (3, 99, "q8_0")
    assert (plan.shared_kv, plan.pool_token_capacity) == (True, 700)
    assert plan.adapters == (Adapter("polite", tmp_path / "lora.gguf", 0.5),)
    assert plan.memory_limit_bytes == 1 << 30


def test_a_plan_travels_as_text(settings: EdgeSettings, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    plan = make_plan(replace(settings, adapters=(f"polite={tmp_path / 'lora.gguf'}",)))
    assert LoadPlan.from_json(plan.to_json()) == replace(plan, card=ModelCard())


@pytest.mark.parametrize(
    ("changes", "env"),
    [
        ({"slot_count": 0}, "FARTHING_EDGE_SLOTS"),
        ({"slot_count": 256, "step_token_capacity": 512}, "FARTHING_EDGE_SLOTS"),
        ({"slot_count": 8, "step_token_capacity": 8}, "FARTHING_EDGE_STEP_TOKENS"),
        ({"kv_type": "q4_0"}, "FARTHING_EDGE_KV_TYPE"),
        ({"flash_attention": "maybe"}, "FARTHING_EDGE_FLASH_ATTENTION"),
        ({"flash_attention": "off", "kv_type": "q8_0"}, "FARTHING_EDGE_FLASH_ATTENTION"),
        ({"pool_token_capacity": 4_096}, "FARTHING_EDGE_POOL_TOKENS"),
        ({"pool_token_capacity": -1, "shared_kv": True}, "FARTHING_EDGE_POOL_TOKENS"),
        ({"memory_limit_bytes": -1}, "FARTHING_EDGE_MEMORY_LIMIT_BYTES"),
        ({"adapters": ("nothing",)}, "FARTHING_EDGE_ADAPTERS"),
    ],
)
def test_a_setting_out_of_range_is_named(
    settings: EdgeSettings, changes: dict[str, Any], env: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        make_plan(replace(settings, **changes))
    assert env in caught.value.message
    assert caught.value.metadata["env"] == env


def test_adapters_are_read_from_one_variable() -> None:
    environment = {"FARTHING_EDGE_ADAPTERS": "a=/one.gguf, b=/two.gguf@2"}
    assert load(EdgeSettings, environment).adapters == ("a=/one.gguf", "b=/two.gguf@2")


def test_a_name_with_an_at_sign_is_a_file_when_no_number_follows(tmp_path: Path) -> None:
    for name in ("lora@home.gguf", "lora@nan", "plain.gguf"):
        write_tiny_lora(tmp_path / name)
    texts = [
        f"a{place}={tmp_path / name}"
        for place, name in enumerate(("lora@home.gguf", "lora@nan"))
    ]
    assert [one.path.name for one in parse_adapters(texts)] == ["lora@home.gguf", "lora@nan"]
    (scaled,) = parse_adapters([f"a={tmp_path / 'plain.gguf'}@-1.5"])
    assert (scaled.path.name, scaled.scale) == ("plain.gguf", -1.5)


def test_what_is_no_adapter_is_refused(tmp_path: Path, model_paths: dict[str, Path]) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    good = f"a={tmp_path / 'lora.gguf'}"
    for texts, finding in (
        (["a"], "write name=file"),
        (["=x"], "write name=file"),
        (["a="], "write name=file"),
        ([good, good], "twice"),
        ([f"a={tmp_path / 'none.gguf'}"], "there is no file"),
        ([f"a={model_paths['F16']}"], "is no adapter"),
    ):
        with pytest.raises(SettingsError, match=finding):
            parse_adapters(texts)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidArgument, match=r"broken\.gguf"):
        parse_adapters([f"a={tmp_path / 'broken.gguf'}"])


def test_a_model_over_the_memory_limit_is_refused_by_name_of_the_setting(
    settings: EdgeSettings,
) -> None:
    with pytest.raises(FailedPrecondition, match="FARTHING_EDGE_MEMORY_LIMIT_BYTES=5"):
        make_plan(replace(settings, memory_limit_bytes=5))
