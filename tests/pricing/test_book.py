"""The price book: what it says is found, what it does not say is unpriced, and what is wrong in it is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from farthing.pricing import PriceBook, PriceBookError

BOOK: dict[str, Any] = {
    "version": "2026-11",
    "deployments": [
        {
            "tier": "edge",
            "region": "edge-site",
            "model": "small",
            "compute": {"nano_usd_per_hour": 15_000_000, "utilisation_percent": 30},
            "energy": {"power_mw": 25_000, "nano_usd_per_kwh": 250_000_000},
            "carbon": {"mg_per_kwh": 366_972},
            "source": "an invoice",
        },
        {"tier": "edge", "compute": {"nano_usd_per_hour": 1}},
        {
            "tier": "cloud",
            "region": "cloud-a",
            "tokens": {
                "input_nano_usd_per_million": 150_000_000,
                "output_nano_usd_per_million": 600_000_000,
            },
        },
    ],
    "links": [
        {"from": "cloud-a", "to": "edge-site", "nano_usd_per_gb": 90_000_000},
        {"from": "cloud-a", "nano_usd_per_gb": 120_000_000},
        {"to": "cloud-b", "nano_usd_per_gb": 7},
    ],
    "cache": {"lookup_nano_usd": 50},
}


def test_a_book_is_read_whole() -> None:
    book = PriceBook.parse(BOOK)
    assert book.version == "2026-11"
    assert book.cache_lookup_nano_usd == 50
    small = book.deployments[0]
    assert small.compute_nano_usd_per_hour == 15_000_000
    assert small.utilisation_percent == 30
    assert (small.power_mw, small.energy_nano_usd_per_kwh) == (25_000, 250_000_000)
    assert small.carbon_mg_per_kwh == 366_972
    assert small.source == "an invoice"
    tokens = book.deployments[2].tokens
    assert tokens is not None
    assert tokens.cached_input_nano_usd_per_million == 150_000_000


def test_the_first_rule_that_matches_counts() -> None:
    book = PriceBook.parse(BOOK)
    first, second, cloud = book.deployments
    assert book.deployment("edge", "edge-site", "small") is first
    assert book.deployment("edge", "edge-site", "large") is second
    assert book.deployment("edge", "elsewhere", "small") is second
    assert book.deployment("cloud", "cloud-a", "anything") is cloud
    reversed_book = PriceBook.parse({**BOOK, "deployments": BOOK["deployments"][::-1]})
    assert reversed_book.deployment("edge", "edge-site", "small") == second


def test_what_no_rule_matches_is_unpriced_every_time_it_is_asked() -> None:
    book = PriceBook.parse(BOOK)
    for _ in range(2):
        assert book.deployment("cloud", "cloud-b", "small") is None


def test_the_most_exact_link_counts_whatever_the_order() -> None:
    for links in (BOOK["links"], BOOK["links"][::-1]):
        book = PriceBook.parse({**BOOK, "links": links})
        assert book.link_nano_usd_per_gb("cloud-a", "edge-site") == 90_000_000
        assert book.link_nano_usd_per_gb("cloud-a", "edge-other") == 120_000_000
        assert book.link_nano_usd_per_gb("cloud-a", "cloud-b") == 120_000_000
        assert book.link_nano_usd_per_gb("edge-site", "cloud-b") == 7


def test_a_link_that_nobody_priced_is_unpriced_but_a_region_reaches_itself_free() -> None:
    book = PriceBook.parse({**BOOK, "links": []})
    assert book.link_nano_usd_per_gb("cloud-a", "edge-site") is None
    assert book.link_nano_usd_per_gb("edge-site", "edge-site") == 0
    priced = PriceBook.parse({**BOOK, "links": [{"nano_usd_per_gb": 3}]})
    assert priced.link_nano_usd_per_gb("cloud-a", "edge-site") == 3


def test_a_book_without_rules_prices_nothing() -> None:
    book = PriceBook.parse({"version": "empty"})
    assert book.deployment("edge", "edge-site", "small") is None
    assert book.cache_lookup_nano_usd == 0


EDGE = BOOK["deployments"][1]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"version": ""}, "version"),
        ({"version": 3}, "version"),
        ({"deployments": {}}, "deployments"),
        ({"deployments": None}, "deployments"),
        ({"deployments": ["edge"]}, "deployments"),
        ({"deployments": [EDGE, {"tier": "edge"}]}, "deployments[1]"),
        ({"deployments": [{**EDGE, "tier": ""}]}, "deployments[0].tier"),
        ({"deployments": [{**EDGE, "region": 7}]}, "deployments[0].region"),
        ({"deployments": [{**EDGE, "model": None}]}, "deployments[0].model"),
        ({"deployments": [{"compute": 5}]}, "deployments[0].compute"),
        ({"deployments": [{"compute": ["x"]}]}, "deployments[0].compute"),
        (
            {"deployments": [{"compute": {"utilisation_percent": 50}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": -1}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": 1.5}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": True}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": "5"}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": 10**18}}]},
            "deployments[0].compute.nano_usd_per_hour",
        ),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": 1, "utilisation_percent": 0}}]},
            "deployments[0].compute.utilisation_percent",
        ),
        (
            {
                "deployments": [
                    {"compute": {"nano_usd_per_hour": 1, "utilisation_percent": 101}}
                ]
            },
            "deployments[0].compute.utilisation_percent",
        ),
        (
            {"deployments": [{**EDGE, "energy": {"power_mw": None}}]},
            "deployments[0].energy.power_mw",
        ),
        ({"deployments": [{**EDGE, "energy": 5}]}, "deployments[0].energy"),
        ({"deployments": [{**EDGE, "carbon": "green"}]}, "deployments[0].carbon"),
        ({"deployments": [{"tokens": []}]}, "deployments[0].tokens"),
        (
            {"deployments": [{"tokens": {"input_nano_usd_per_million": 1}}]},
            "deployments[0].tokens.output_nano_usd_per_million",
        ),
        ({"links": [{"from": "a", "to": "b"}]}, "links[0].nano_usd_per_gb"),
        ({"links": [{"from": 1, "nano_usd_per_gb": 1}]}, "links[0].from"),
        ({"cache": 5}, "cache"),
        ({"cache": {"lookup_nano_usd": -5}}, "cache.lookup_nano_usd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(PriceBookError) as caught:
        PriceBook.parse({**copy.deepcopy(BOOK), **change})
    assert str(caught.value).startswith(f"{path}:")


@pytest.mark.parametrize("document", [None, [], "prices", 5])
def test_a_document_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(PriceBookError):
        PriceBook.parse(document)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"deploymants": []}, "deploymants"),
        ({"deployments": [{**EDGE, "enrgy": {}}]}, "deployments[0].enrgy"),
        (
            {"deployments": [{"compute": {"nano_usd_per_hour": 1, "utilization_percent": 9}}]},
            "deployments[0].compute.utilization_percent",
        ),
        ({"links": [{"form": "a", "nano_usd_per_gb": 1}]}, "links[0].form"),
        ({"cache": {"nano_usd": 1}}, "cache.nano_usd"),
    ],
)
def test_a_misspelt_price_is_refused_and_not_taken_for_free(
    change: dict[str, Any], path: str
) -> None:
    with pytest.raises(PriceBookError) as caught:
        PriceBook.parse({**copy.deepcopy(BOOK), **change})
    assert str(caught.value).startswith(f"{path}:")
