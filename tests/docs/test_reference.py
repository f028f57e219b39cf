"""The reference pages say what the code says."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict

import pytest
from tests.docs.pages import ROOT, read_page

from farthing.cli.up.layout import DEFAULT_PORTS
from farthing.clients.quota import DenialReason, Denied
from farthing.kit import errors
from farthing.kit.rpc.status import code_of
from farthing.kit.telemetry import names
from farthing.pricing import PriceBook
from farthing.router.core.policy import BUILT_IN, parse_policy
from farthing.router.refusals import denial_error

_ROW = re.compile(r"^\| `([A-Z_]+)` \| ([A-Z_, ]+|–) \|", re.MULTILINE)


def raised_reasons() -> dict[str, set[str]]:
    """Every reason in the source with the codes of the errors that carry it."""
    found: dict[str, set[str]] = defaultdict(set)
    for root in ("services", "edge", "cloud"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    for reason in _reasons_of(node):
                        found[reason] |= _codes_of(node.func)
    found["INVALID_FIELD"].add("INVALID_ARGUMENT")  # the default of errors.InvalidArgument
    for denial in DenialReason:
        error = denial_error(Denied(denial, "node", "message", 0, None))
        found[error.reason].add(code_of(error).name)
    return dict(found)


def _reasons_of(call: ast.Call) -> list[str]:
    return [
        constant.value
        for keyword in call.keywords
        if keyword.arg == "reason"
        for constant in ast.walk(keyword.value)
        if isinstance(constant, ast.Constant)
        and isinstance(constant.value, str)
        and re.fullmatch(r"[A-Z][A-Z_]+", constant.value)
    ]


def _codes_of(function: ast.expr) -> set[str]:
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    cls = getattr(errors, name, None)
    if not isinstance(cls, type) or not issubclass(cls, errors.FarthingError):
        return set()
    if cls is errors.FarthingError:
        return set()
    return {code_of(cls.__new__(cls)).name}


def test_every_reason_is_documented_with_its_codes() -> None:
    page = read_page("docs/reference/errors.md")
    documented = {
        reason: set() if codes == "–" else {code.strip() for code in codes.split(",")}
        for reason, codes in _ROW.findall(page.text)
    }
    assert documented == raised_reasons()


def test_no_reason_is_documented_twice() -> None:
    reasons = [reason for reason, _ in _ROW.findall(read_page("docs/reference/errors.md").text)]
    assert len(reasons) == len(set(reasons))


def test_the_policies_shown_are_the_built_in_ones() -> None:
    rows = read_page("docs/reference/policies.md").table("## Built in")
    shown = {
        name.strip("`"): tuple(int(cell.replace("_", "")) for cell in cells)
        for name, *cells in rows
    }
    assert shown == {
        policy.name: (
            policy.latency_nano_usd_per_s,
            policy.wrong_answer_nano_usd,
            policy.carbon_nano_usd_per_kg,
        )
        for policy in BUILT_IN.values()
    }


@pytest.mark.parametrize(
    "name", ["docs/reference/price-book.md", "docs/how-to/write-a-price-book.md"]
)
def test_the_price_books_shown_are_valid(name: str) -> None:
    books = [
        json.loads(text) for language, text in read_page(name).blocks if language == "json"
    ]
    assert books
    for book in books:
        PriceBook.parse(book)


@pytest.mark.parametrize(
    "name", ["docs/reference/policies.md", "docs/how-to/choose-a-policy.md"]
)
def test_the_policies_shown_are_valid(name: str) -> None:
    shown = [
        json.loads(text) for language, text in read_page(name).blocks if language == "json"
    ]
    assert shown
    for policy in shown:
        parse_policy("shown", policy)


def test_the_ports_shown_are_the_default_ones() -> None:
    rows = read_page("docs/reference/architecture.md").table("## Processes and ports")
    shown = {int(port) for row in rows for port in re.findall(r"\b\d{4,5}\b", row[1])}
    assert shown == set(DEFAULT_PORTS.values())


def test_the_metrics_shown_to_operators_exist() -> None:
    known = {value for name, value in vars(names).items() if name.startswith("METRIC_")}
    shown = re.findall(r"\bfarthing_[a-z_]+", read_page("docs/how-to/operate.md").text)
    assert shown
    assert {name.removesuffix("_total") for name in shown} <= known
