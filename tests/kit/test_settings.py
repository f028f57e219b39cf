"""Settings are read once, typed, and every mistake is named with its value and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from farthing.kit.settings import (
    ServiceSettings,
    SettingsError,
    describe,
    load,
    setting,
)


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """One field of every type."""

    name: str = setting("plain", env="FARTHING_SAMPLE_NAME", doc="A text.")
    count: int = setting(3, env="FARTHING_SAMPLE_COUNT", doc="A count.", unit="requests")
    ratio: float = setting(0.5, env="FARTHING_SAMPLE_RATIO", doc="A share.", unit="ratio")
    strict: bool = setting(True, env="FARTHING_SAMPLE_STRICT", doc="A switch.")
    regions: tuple[str, ...] = setting((), env="FARTHING_SAMPLE_REGIONS", doc="A list.")
    file: Path | None = setting(None, env="FARTHING_SAMPLE_FILE", doc="A path.")
    token: str = setting("", env="FARTHING_SAMPLE_TOKEN", doc="A secret.", secret=True)
    pin: int = setting(0, env="FARTHING_SAMPLE_PIN", doc="A secret number.", secret=True)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load(SampleSettings, {}) == SampleSettings()
    assert load(ServiceSettings, {}) == ServiceSettings()


def test_every_type_is_read() -> None:
    loaded = load(
        SampleSettings,
        {
            "FARTHING_SAMPLE_NAME": "other",
            "FARTHING_SAMPLE_COUNT": "1_000",
            "FARTHING_SAMPLE_RATIO": "0.25",
            "FARTHING_SAMPLE_STRICT": "No",
            "FARTHING_SAMPLE_REGIONS": " edge-site, cloud-a ,",
            "FARTHING_SAMPLE_FILE": "~/registry.json",
            "FARTHING_SAMPLE_TOKEN": "s3cret",
        },
    )
    assert loaded == SampleSettings(
        name="other",
        count=1000,
        ratio=0.25,
        strict=False,
        regions=("edge-site", "cloud-a"),
        file=Path("~/registry.json").expanduser(),
        token="s3cret",
    )


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_switches_are_on_in_any_common_spelling(text: str) -> None:
    assert load(SampleSettings, {"FARTHING_SAMPLE_STRICT": text}).strict


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(SampleSettings, {"FARTHING_SAMPLE_COUNT": ""}).count == 3


def test_foreign_variables_are_none_of_our_business() -> None:
    assert load(SampleSettings, {"PATH": "/bin", "XFARTHING_X": "1"}) == SampleSettings()


@pytest.mark.parametrize(
    ("env", "text", "fix"),
    [
        ("FARTHING_SAMPLE_COUNT", "many", "whole number"),
        ("FARTHING_SAMPLE_COUNT", "1.5", "whole number"),
        ("FARTHING_SAMPLE_RATIO", "half", "number such as"),
        ("FARTHING_SAMPLE_RATIO", "nan", "number such as"),
        ("FARTHING_SAMPLE_RATIO", "-inf", "number such as"),
        ("FARTHING_SAMPLE_STRICT", "maybe", "write true or false"),
    ],
)
def test_a_bad_value_is_refused_by_name_value_and_fix(env: str, text: str, fix: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(SampleSettings, {env: text})
    assert f"{env}={text!r}" in caught.value.message
    assert fix in caught.value.message
    assert caught.value.reason == "INVALID_SETTING"
    assert caught.value.metadata == {"env": env}


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="did you mean FARTHING_SAMPLE_COUNT") as caught:
        load(SampleSettings, {"FARTHING_SAMPLE_COUNTS": "3"})
    assert caught.value.metadata == {"env": "FARTHING_SAMPLE_COUNTS"}


def test_an_unknown_name_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(SettingsError) as caught:
        load(SampleSettings, {"FARTHING_ZEBRA": "3"})
    assert "unset it" in caught.value.message
    assert "did you mean" not in caught.value.message


def test_names_of_other_parts_are_let_through_when_said() -> None:
    environ = {"FARTHING_ROUTER_X": "1"}
    assert load(SampleSettings, environ, also_known=environ) == SampleSettings()


def test_a_secret_shows_neither_in_the_settings_nor_in_an_error() -> None:
    loaded = load(SampleSettings, {"FARTHING_SAMPLE_TOKEN": "s3cret"})
    assert loaded.token == "s3cret"
    assert "s3cret" not in repr(loaded)
    with pytest.raises(SettingsError) as caught:
        load(SampleSettings, {"FARTHING_SAMPLE_PIN": "s3cret"})
    assert "FARTHING_SAMPLE_PIN=(secret)" in caught.value.message
    assert "s3cret" not in caught.value.message
    assert caught.value.__cause__ is None


def test_descriptions_hold_what_the_reference_needs() -> None:
    infos = {info.env: info for info in describe(SampleSettings)}
    assert list(infos) == [f"FARTHING_SAMPLE_{n}" for n in (
        "NAME", "COUNT", "RATIO", "STRICT", "REGIONS", "FILE", "TOKEN", "PIN"
    )]  # fmt: skip
    assert infos["FARTHING_SAMPLE_COUNT"].type_name == "integer"
    assert infos["FARTHING_SAMPLE_COUNT"].default == "3"
    assert infos["FARTHING_SAMPLE_COUNT"].unit == "requests"
    assert infos["FARTHING_SAMPLE_STRICT"].default == "true"
    assert infos["FARTHING_SAMPLE_REGIONS"].type_name == "comma-separated list"
    assert infos["FARTHING_SAMPLE_FILE"].type_name == "path"
    assert infos["FARTHING_SAMPLE_FILE"].default == ""
    assert infos["FARTHING_SAMPLE_TOKEN"].secret


def test_a_setting_outside_our_prefix_is_a_defect() -> None:
    with pytest.raises(ValueError, match="FARTHING_"):
        setting("", env="SAMPLE", doc="")


def test_places_follow_from_host_port_and_service() -> None:
    settings = ServiceSettings(host="127.0.1.1", port=50051)
    assert settings.resolve_address() == "127.0.1.1:50051"
    assert settings.resolve_instance_id("router") == "router-127.0.1.1-50051"
    assert settings.resolve_metrics_port() == 9451
    told = ServiceSettings(
        port=50051, metrics_port=-1, advertise_address="router.example:443", instance_id="r1"
    )
    assert told.resolve_address() == "router.example:443"
    assert told.resolve_instance_id("router") == "r1"
    assert told.resolve_metrics_port() == -1


def test_the_data_directory_is_made_and_a_place_where_it_cannot_be_is_named(
    tmp_path: Path,
) -> None:
    made = ServiceSettings(data_dir=tmp_path / "a" / "b").resolve_data_dir("quota")
    assert made.is_dir()
    assert made == tmp_path / "a" / "b" / "quota"
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="FARTHING_DATA_DIR="):
        ServiceSettings(data_dir=tmp_path / "file").resolve_data_dir("quota")
