"""Replays traffic through the decision cores: what-if, total cost, return. Holds its place, no code yet."""

from __future__ import annotations
