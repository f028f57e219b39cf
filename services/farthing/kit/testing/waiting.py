"""Waits for a condition instead of for a length of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]],
    *,
    timeout_s: float = 10.0,
    what: str = "the condition",
) -> Any:
    """Return the condition's first truthy value. AssertionError after `timeout_s`, naming `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what} did not hold within {timeout_s} s; last value {value!r}"
            )
        await asyncio.sleep(0.01)
