"""The web console: server-rendered pages on which every amount can be followed to its span."""

from __future__ import annotations
