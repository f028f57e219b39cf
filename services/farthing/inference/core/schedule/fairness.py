"""Turns among tenants by what they have been served: virtual token counters (Sheng et al., arXiv 2401.00588)."""

from __future__ import annotations

from collections.abc import Iterable

# An input token counts 1 and an output token 2, as in the paper's evaluation: each output token takes a step.
INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
_MOST_TENANTS = 10_000


class ServiceCounters:
    """How much each tenant has been served. The least served goes first; being away earns nothing."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._last_left = 0

    def of(self, tenant_id: str) -> int:
        """The tenant's counter."""
        return self._counters.get(tenant_id, 0)

    def arrive(self, tenant_id: str, present: Iterable[str]) -> None:
        """A tenant comes back while `present` ones have requests here.

        It is lifted to the least of theirs, or to where the last one to leave stood: what it did not use while it was
        away does not let it shut the others out.
        """
        least = min((self.of(other) for other in present), default=self._last_left)
        self._counters[tenant_id] = max(self.of(tenant_id), least)
        if len(self._counters) > _MOST_TENANTS:
            kept = sorted(self._counters, key=self._counters.__getitem__)[_MOST_TENANTS // 2 :]
            self._counters = {tenant: self._counters[tenant] for tenant in kept}

    def leave(self, tenant_id: str) -> None:
        """A tenant's last request has ended."""
        self._last_left = self.of(tenant_id)

    def serve(self, tenant_id: str, *, input_count: int = 0, output_count: int = 0) -> None:
        """Count what a step computed for a tenant."""
        self._counters[tenant_id] = (
            self.of(tenant_id) + INPUT_WEIGHT * input_count + OUTPUT_WEIGHT * output_count
        )
