"""How fast a node sends, to each caller and to all of them together."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from farthing.inference.store.bandwidth import Rate

_NAMES = ("x509_subject_alternative_name", "x509_common_name")
_PORT = re.compile(r":\d+$")
_MOST_CALLERS = 1_024
# A stream that ends is noticed between two naps.
_LONGEST_NAP_S = 0.5


class SendingRate:
    """Two buckets in a row, everyone's and the caller's. For one event loop."""

    def __init__(
        self,
        bytes_per_s: int,
        caller_bytes_per_s: int,
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._all, self._new_caller = Rate(bytes_per_s), Rate(caller_bytes_per_s)
        self._callers: dict[str, Rate] = {}
        self._now_s, self._sleep = now_s, sleep

    @property
    def chunk_bytes(self) -> int:
        """How much to send at a time."""
        return min(self._all.chunk_bytes, self._new_caller.chunk_bytes)

    async def pay(self, caller: str, count_bytes: int) -> None:
        """Returns when so many bytes may go to the caller. Whoever asks first is served first."""
        now_s = self._now_s()
        self._all, all_wait_s = self._all.pay(count_bytes, now_s)
        rate, own_wait_s = self._callers.get(caller, self._new_caller).pay(count_bytes, now_s)
        self._callers[caller] = rate
        if len(self._callers) > _MOST_CALLERS:
            self._callers = {k: r for k, r in self._callers.items() if r.paid_until_s > now_s}
        wait_s = max(all_wait_s, own_wait_s)
        while wait_s > 0:
            nap_s = min(wait_s, _LONGEST_NAP_S)
            await self._sleep(nap_s)
            wait_s -= nap_s


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Who calls: its host, with the names in its certificate where there is one."""
    host = _PORT.sub("", context.peer())
    identity = context.auth_context()
    names = sorted({name for key in _NAMES for name in identity.get(key) or ()})
    return b",".join(names).decode(errors="replace") + f"@{host}" if names else host
