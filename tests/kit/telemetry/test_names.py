"""Names follow the published conventions wherever those have a name."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, rpc_attributes
from opentelemetry.semconv.attributes import (
    http_attributes,
    server_attributes,
)

from farthing.kit.telemetry import names

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "telemetry.md"


def published() -> set[str]:
    modules = (
        gen_ai_attributes,
        rpc_attributes,
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
    convention = ours("gen_ai.", "rpc.", "http.", "server.") - names.PROPOSED_UPSTREAM
    assert len(convention) > 15
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


def test_the_documentation_lists_every_name_and_no_other() -> None:
    values = {
        name: value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("KIND_")
    }
    not_names = {
        "PROVIDER_FARTHING",
        "NAMESPACE_FARTHING",
        "GEN_AI_OPERATION_CHAT",
        "GEN_AI_OPERATION_TEXT_COMPLETION",
    }
    rows = [
        line.split("`")[1]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) == len(set(rows))
    assert set(rows) == {value for name, value in values.items() if name not in not_names}
