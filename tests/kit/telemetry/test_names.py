"""Names follow the published conventions wherever those have a name."""

from __future__ import annotations

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, rpc_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
)

from farthing.kit.telemetry import names


def published() -> set[str]:
    modules = (
        gen_ai_attributes,
        rpc_attributes,
        error_attributes,
        http_attributes,
        server_attributes,
    )
    return {
        value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }


def ours(*prefixes: str) -> set[str]:
    return {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.startswith(prefixes)
    }


def test_convention_names_exist_in_the_installed_conventions() -> None:
    convention = ours("gen_ai.", "rpc.", "http.", "server.", "error.") - names.PROPOSED_UPSTREAM
    assert len(convention) > 20
    assert convention <= published()


def test_proposed_names_are_still_only_proposed() -> None:
    assert not names.PROPOSED_UPSTREAM & published()


def test_every_other_attribute_is_in_our_own_namespace() -> None:
    invented = {name for name in ours("gen_ai.usage.")} - published() - names.PROPOSED_UPSTREAM
    assert invented == set()


def test_no_two_constants_share_a_value() -> None:
    values = [
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and "." in value
    ]
    assert len(values) == len(set(values))
