"""What to believe of an answer: the last-known-good rules, as pure functions over values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from farthing.kit.discovery.registry import Instance


@dataclass(frozen=True, slots=True)
class ViewRules:
    """How sceptical to be."""

    hold_s: float = 5.0
    """A mass disappearance is believed when a good answer still says so after this long. One agent's
    failed gossip probe looks exactly like one for 5-6 s."""
    shrink_ratio: float = 0.5
    """Losing more than this share of the healthy instances in one answer is a mass disappearance."""


@dataclass(frozen=True, slots=True)
class RegionView:
    """One service in one region: what is held, and what of it is doubted since when."""

    held: Mapping[str, Instance] = field(default_factory=dict)
    doubted_since_s: Mapping[str, float] = field(default_factory=dict)
    confirmed_s: float | None = None
    """Monotonic time of the last good answer."""


def apply_answer(
    view: RegionView,
    answer: Mapping[str, Instance],
    *,
    now_s: float,
    rules: ViewRules,
    trusted: bool = True,
) -> RegionView:
    """The view after a good answer that lists the instances which are not critical.

    Single absences are believed at once. A mass disappearance keeps the missing ones, marked suspect, until a good
    answer confirms it `hold_s` later. An answer that is not `trusted` (it may come from a token that sees nothing)
    adds and doubts, but never removes.
    """
    missing = view.held.keys() - answer.keys()
    newly_missing = {key for key in missing if key not in view.doubted_since_s}
    healthy_count = len(view.held) - len(view.doubted_since_s)
    mass = bool(newly_missing) and (
        not answer or len(newly_missing) > rules.shrink_ratio * healthy_count
    )
    doubted: dict[str, float] = {}
    for key in missing:
        since_s = view.doubted_since_s.get(key)
        if since_s is None:
            if mass or not trusted:
                doubted[key] = now_s
        elif not trusted or now_s - since_s < rules.hold_s:
            doubted[key] = since_s
    held = dict(answer)
    for key in doubted:
        held[key] = replace(view.held[key], suspect=True)
    return RegionView(held=held, doubted_since_s=doubted, confirmed_s=now_s)


def recheck_after_s(view: RegionView, *, now_s: float, rules: ViewRules) -> float | None:
    """Seconds until doubts want another answer; None without doubts."""
    if not view.doubted_since_s:
        return None
    return max(0.0, min(view.doubted_since_s.values()) + rules.hold_s - now_s)


def next_index(previous: int, received: int) -> int:
    """The index for the next blocking read; 0 (answer at once) after it ran backwards or was nonsense."""
    return received if 0 < received >= previous else 0


def retry_after_s(error_count: int, jitter_ratio: float) -> float:
    """Seconds to wait after `error_count` >= 1 errors in a row: doubling from 0.1, at most 2.

    `jitter_ratio` (0..1) spreads it over the upper half.
    """
    full_s: float = min(0.1 * 2 ** min(error_count - 1, 10), 2.0)
    return full_s * (0.5 + 0.5 * jitter_ratio)


def merge_regions(views: Iterable[tuple[str, RegionView]]) -> dict[str, Instance]:
    """One view over all regions. Of ids that two regions share, the first keeps its own, others become id@region."""
    merged: dict[str, Instance] = {}
    for region, view in sorted(views, key=lambda pair: pair[0]):
        for key, instance in sorted(view.held.items()):
            if key in merged:
                key = f"{key}@{region}"
                instance = replace(instance, id=key)
            merged[key] = instance
    return merged


def newest_confirmation_s(views: Iterable[RegionView]) -> float | None:
    """When any region was last confirmed; None if none ever was."""
    return max(
        (view.confirmed_s for view in views if view.confirmed_s is not None), default=None
    )
