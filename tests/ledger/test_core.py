"""The ledger's rules, on values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from farthing.ledger.core.charges import (
    Charge,
    CostKind,
    CostLine,
    CostUnit,
    FinishReason,
    Tier,
    Usage,
    Waste,
    find_fault,
    hash_content,
)
from farthing.ledger.core.postings import make_postings
from farthing.ledger.core.spans import Span, build_tree, visible_spans

MakeCharge = Callable[..., Charge]
MakeSpan = Callable[..., Span]


def test_a_charge_posts_each_kind_to_the_tenant_and_to_the_pool(
    make_charge: MakeCharge,
) -> None:
    postings = make_postings(make_charge(amount=100, team_id="a/b:c"))
    assert [(p.account, p.debit_nano_usd, p.credit_nano_usd) for p in postings] == [
        ("expense:acme/rd/a%2Fb%3Ac:compute", 75, 0),
        ("pool:edge-site:compute", 0, 75),
        ("expense:acme/rd/a%2Fb%3Ac:energy", 25, 0),
        ("pool:edge-site:energy", 0, 25),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"charge_id": ""}, "charge_id"),
        ({"organisation_id": ""}, "organisation_id"),
        ({"region": "x" * 300}, "region"),
        ({"tier": Tier.UNSPECIFIED}, "tier"),
        ({"model": ""}, "model"),
        ({"trace_id": "ABC"}, "trace_id"),
        ({"span_id": "xyz"}, "span_id"),
        ({"charge_time_ns": 0}, "charge_time"),
        ({"usage": Usage(decode_us=-1)}, "usage"),
        ({"cost_lines": (), "total_nano_usd": 0}, "cost_lines"),
        ({"total_nano_usd": 999}, "total_nano_usd"),
        (
            {"cost_lines": (CostLine(CostKind.UNSPECIFIED, 1_000, 1, CostUnit.US),)},
            "cost_lines[0]",
        ),
        (
            {
                "cost_lines": (
                    CostLine(CostKind.TOKENS, 1_001, 1, CostUnit.TOKENS),
                    CostLine(CostKind.CACHE, -1, 1, CostUnit.COUNT),
                )
            },
            "cost_lines[1]",
        ),
    ],
)
def test_an_unfit_charge_is_told_by_its_field(
    make_charge: MakeCharge, change: dict[str, Any], field: str
) -> None:
    fault = find_fault(make_charge(**change))
    assert fault is not None
    assert fault.startswith(field)


def test_a_fit_charge_has_no_fault(make_charge: MakeCharge) -> None:
    assert find_fault(make_charge()) is None
    assert find_fault(make_charge(amount=0, tier=Tier.CACHE, model="", trace_id="")) is None


def test_the_content_hash_sees_every_field(make_charge: MakeCharge) -> None:
    charge = make_charge()
    changed: dict[str, Any] = {
        "tier": Tier.CLOUD,
        "finish_reason": FinishReason.STOP,
        "waste": Waste.SHADOW,
        "usage": Usage(energy_estimated=True),
        "cost_lines": charge.cost_lines[::-1],
        "total_nano_usd": 1,
        "charge_time_ns": 1,
    }
    hashes = {hash_content(charge)}
    for field in fields(Charge):
        hashes.add(hash_content(replace(charge, **{field.name: changed.get(field.name, "x")})))
    assert len(hashes) == len(fields(Charge)) + 1
    assert hash_content(charge) == hash_content(make_charge())


def test_a_span_tells_its_own_cost_and_that_of_everything_below(make_span: MakeSpan) -> None:
    spans = [
        make_span("c" * 16, parent_span_id="b" * 16, start_ns=3, cost_nano_usd=5),
        make_span("a" * 16, start_ns=1),
        make_span("d" * 16, parent_span_id="a" * 16, start_ns=2, cost_nano_usd=7),
        make_span("b" * 16, parent_span_id="a" * 16, start_ns=4, cost_nano_usd=1),
        make_span("e" * 16, parent_span_id="9" * 16, start_ns=9, cost_nano_usd=2),
    ]
    tree = [
        (node.span.span_id[0], node.depth, node.cost_nano_usd, node.subtree_cost_nano_usd)
        for node in build_tree(spans)
    ]
    assert tree == [
        ("a", 0, 0, 13),
        ("d", 1, 7, 7),
        ("b", 1, 1, 6),
        ("c", 2, 5, 5),
        ("e", 0, 2, 2),
    ]


def test_a_ring_of_parents_is_cut_and_counted_once(make_span: MakeSpan) -> None:
    spans = [
        make_span("a" * 16, parent_span_id="b" * 16, start_ns=1, cost_nano_usd=1),
        make_span("b" * 16, parent_span_id="a" * 16, start_ns=2, cost_nano_usd=2),
        make_span("c" * 16, parent_span_id="c" * 16, start_ns=3, cost_nano_usd=4),
    ]
    nodes = {node.span.span_id[0]: node for node in build_tree(spans)}
    assert len(nodes) == 3
    assert nodes["a"].subtree_cost_nano_usd == 3
    assert nodes["c"].subtree_cost_nano_usd == 4


def test_a_very_deep_trace_does_not_exhaust_the_stack(make_span: MakeSpan) -> None:
    spans = [
        make_span(f"{n:016x}", parent_span_id=f"{n - 1:016x}" if n > 1 else "", cost_nano_usd=1)
        for n in range(1, 5_001)
    ]
    root = next(node for node in build_tree(spans) if node.depth == 0)
    assert root.subtree_cost_nano_usd == 5_000


def test_a_tenant_sees_its_own_trace_whole_and_of_a_shared_one_only_its_spans(
    make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    mine = make_span("1" * 16, organisation_id="acme")
    plain = make_span("2" * 16)
    theirs = make_span("3" * 16, organisation_id="rival")
    own, foreign = make_charge(span_id="2" * 16), make_charge("f", organisation_id="rival")
    assert visible_spans([mine, plain], [own], "acme") == (mine, plain)
    assert visible_spans([mine, plain, theirs], [own], "acme") == (mine, plain)
    assert visible_spans([mine, plain], [foreign], "acme") == (mine,)
    assert visible_spans([plain, theirs], [foreign], "acme") == ()
    spoof = make_charge("s", span_id="3" * 16)
    assert visible_spans([plain, theirs], [spoof, foreign], "acme") == ()
