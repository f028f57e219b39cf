"""The price book: one dated document that prices every deployment, link and cache lookup, or leaves it unpriced."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

ANY = "*"
# A million USD an hour, a million tokens or a GB: beyond that it is a mistake, and sums would outgrow 64 bits.
_MOST_NANO_USD = 10**15


class PriceBookError(ValueError):
    """The document is wrong; the message names the path in it."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """A provider's list price, nano-USD per million tokens."""

    input_nano_usd_per_million: int
    output_nano_usd_per_million: int
    cached_input_nano_usd_per_million: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """How the instances that match (tier, region, model) are priced. "*" matches anything.

    Compute is rent or amortised purchase per hour of the machine, divided by the share of the hour it is busy
    (`utilisation_percent`), so that idle time is paid by the work that causes the machine to be there.
    """

    tier: str
    region: str
    model: str
    compute_nano_usd_per_hour: int = 0
    utilisation_percent: int = 100
    power_mw: int = 0
    energy_nano_usd_per_kwh: int = 0
    carbon_mg_per_kwh: int = 0
    tokens: TokenPrice | None = None
    source: str = ""

    def matches(self, tier: str, region: str, model: str) -> bool:
        """Whether this rule prices the given instance and model."""
        return (
            self.tier in (ANY, tier)
            and self.region in (ANY, region)
            and self.model in (ANY, model)
        )


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All prices at one version. Rules are tried in order; the first match counts."""

    version: str
    deployments: tuple[Deployment, ...]
    links: Mapping[tuple[str, str], int]
    cache_lookup_nano_usd: int = 0
    _found: dict[tuple[str, str, str], Deployment | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def deployment(self, tier: str, region: str, model: str) -> Deployment | None:
        """The rule for an instance and model, or None when it is unpriced."""
        key = (tier, region, model)
        if key not in self._found:
            self._found[key] = next(
                (rule for rule in self.deployments if rule.matches(*key)), None
            )
        return self._found[key]

    def link_nano_usd_per_gb(self, source: str, target: str) -> int | None:
        """Price of bytes from one region to another; 0 inside a region, None when unpriced."""
        for key in ((source, target), (source, ANY), (ANY, target), (ANY, ANY)):
            if key in self.links:
                return self.links[key]
        return 0 if source == target else None

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> PriceBook:
        """Read a price book document; PriceBookError names the first thing wrong with it.

        A field it does not know is wrong as well: a misspelt price must not count as free.
        """
        if not isinstance(document, Mapping):
            raise PriceBookError("the document must be an object")
        _refuse_unknown(document, "", ("version", "deployments", "links", "cache"))
        version = document.get("version")
        if not isinstance(version, str) or not version:
            raise PriceBookError("version: a non-empty text is required")
        cache = _object(document, "cache", "cache", ("lookup_nano_usd",))
        return cls(
            version=version,
            deployments=tuple(
                _deployment(entry, f"deployments[{index}]")
                for index, entry in enumerate(_list(document, "deployments"))
            ),
            links=dict(
                _link(entry, f"links[{index}]")
                for index, entry in enumerate(_list(document, "links"))
            ),
            cache_lookup_nano_usd=_amount(cache, "lookup_nano_usd", "cache", default=0),
        )


def _deployment(entry: Mapping[str, Any], where: str) -> Deployment:
    _refuse_unknown(
        entry,
        f"{where}.",
        ("tier", "region", "model", "compute", "energy", "carbon", "tokens", "source"),
    )
    compute = _object(
        entry, "compute", f"{where}.compute", ("nano_usd_per_hour", "utilisation_percent")
    )
    energy = _object(entry, "energy", f"{where}.energy", ("power_mw", "nano_usd_per_kwh"))
    carbon = _object(entry, "carbon", f"{where}.carbon", ("mg_per_kwh",))
    utilisation = _amount(compute, "utilisation_percent", f"{where}.compute", default=100)
    if not 1 <= utilisation <= 100:
        raise PriceBookError(f"{where}.compute.utilisation_percent: must be 1..100")
    if not compute and "tokens" not in entry:
        raise PriceBookError(
            f"{where}: needs compute or tokens; write a price of 0 if it is free"
        )
    return Deployment(
        tier=_text(entry, "tier", where),
        region=_text(entry, "region", where),
        model=_text(entry, "model", where),
        compute_nano_usd_per_hour=_amount(
            compute, "nano_usd_per_hour", f"{where}.compute", default=0 if not compute else None
        ),
        utilisation_percent=utilisation,
        power_mw=_amount(energy, "power_mw", f"{where}.energy", default=0),
        energy_nano_usd_per_kwh=_amount(
            energy, "nano_usd_per_kwh", f"{where}.energy", default=0
        ),
        carbon_mg_per_kwh=_amount(carbon, "mg_per_kwh", f"{where}.carbon", default=0),
        tokens=_token_price(entry, f"{where}.tokens") if "tokens" in entry else None,
        source=str(entry.get("source", "")),
    )


def _token_price(deployment: Mapping[str, Any], where: str) -> TokenPrice:
    cached = "cached_input_nano_usd_per_million"
    known = ("input_nano_usd_per_million", "output_nano_usd_per_million", cached)
    entry = _object(deployment, "tokens", where, known)
    full = _amount(entry, "input_nano_usd_per_million", where)
    return TokenPrice(
        input_nano_usd_per_million=full,
        output_nano_usd_per_million=_amount(entry, "output_nano_usd_per_million", where),
        cached_input_nano_usd_per_million=_amount(entry, cached, where, default=full),
    )


def _link(entry: Mapping[str, Any], where: str) -> tuple[tuple[str, str], int]:
    _refuse_unknown(entry, f"{where}.", ("from", "to", "nano_usd_per_gb"))
    ends = (_text(entry, "from", where), _text(entry, "to", where))
    return ends, _amount(entry, "nano_usd_per_gb", where)


def _object(
    entry: Mapping[str, Any], name: str, where: str, known: Collection[str]
) -> Mapping[str, Any]:
    value = entry.get(name, {})
    if not isinstance(value, Mapping):
        raise PriceBookError(f"{where}: an object is required")
    _refuse_unknown(value, f"{where}.", known)
    return value


def _refuse_unknown(entry: Mapping[str, Any], prefix: str, known: Collection[str]) -> None:
    for name in entry:
        if name not in known:
            raise PriceBookError(f"{prefix}{name}: unknown; use one of {', '.join(known)}")


def _list(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise PriceBookError(f"{name}: a list of objects is required")
    return value


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = entry.get(name, ANY)
    if not isinstance(value, str) or not value:
        raise PriceBookError(f'{where}.{name}: a text or "*" is required')
    return value


def _amount(
    entry: Mapping[str, Any], name: str, where: str, *, default: int | None = None
) -> int:
    value = entry.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PriceBookError(f"{where}.{name}: a whole number >= 0 is required, not {value!r}")
    if value > _MOST_NANO_USD:
        raise PriceBookError(f"{where}.{name}: {value} is too much; at most {_MOST_NANO_USD}")
    return value
