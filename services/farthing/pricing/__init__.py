"""Prices: the price book, landed cost line by line, and the bound that a hold must cover. Pure; no I/O."""

from __future__ import annotations

from farthing.pricing.book import Deployment, PriceBook, PriceBookError
from farthing.pricing.landed import price_cache_hit, price_total, price_usage
from farthing.pricing.lines import CostKind, CostLine, CostUnit, Usage, cap_lines, sum_lines

__all__ = [
    "CostKind",
    "CostLine",
    "CostUnit",
    "Deployment",
    "PriceBook",
    "PriceBookError",
    "Usage",
    "cap_lines",
    "price_cache_hit",
    "price_total",
    "price_usage",
    "sum_lines",
]
