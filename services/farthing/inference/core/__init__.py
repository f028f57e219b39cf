"""Generation rules as pure values: no clock, no transport, no library handle."""

from __future__ import annotations
