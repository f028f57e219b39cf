from __future__ import annotations

import pytest

from farthing.kit.settings import SettingsError, load
from farthing.router.settings import RouterSettings


@pytest.mark.parametrize(
    ("text", "durability"), [(None, "normal"), ("normal", "normal"), ("full", "full")]
)
def test_how_safe_a_charge_is_can_be_chosen(text: str | None, durability: str) -> None:
    environ = {} if text is None else {"FARTHING_ROUTER_SYNCHRONOUS": text}
    assert load(RouterSettings, environ).resolve_synchronous() == durability


def test_another_word_for_it_is_refused_by_name() -> None:
    settings = load(RouterSettings, {"FARTHING_ROUTER_SYNCHRONOUS": "sometimes"})
    with pytest.raises(SettingsError, match="FARTHING_ROUTER_SYNCHRONOUS='sometimes'"):
        settings.resolve_synchronous()
