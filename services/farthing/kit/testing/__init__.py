"""What tests of farthing and of programs built on it need: a clock to turn, a condition to wait for, a real socket."""

from __future__ import annotations

from farthing.kit.testing.clock import FakeClock
from farthing.kit.testing.sockets import free_port, serve
from farthing.kit.testing.waiting import eventually

__all__ = ["FakeClock", "eventually", "free_port", "serve"]
