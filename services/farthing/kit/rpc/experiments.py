"""Chooses gRPC's pollers. Each service imports this before anything else: the library reads it once, when it is loaded.

With gRPC's event engine each turn of a call wakes a thread of a pool, which wakes the thread that polls, which wakes
the event loop. Without it the thread that polls works by itself: half the wake-ups, see docs/decisions/0022. A library
that does not know these names any more says so on standard error and goes on.
"""

from __future__ import annotations

import os
from typing import Final

EXPERIMENTS: Final = "-event_engine_client,-event_engine_listener"

os.environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
