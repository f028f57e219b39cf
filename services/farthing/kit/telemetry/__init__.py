"""Spans, metrics and logs: recorded for a few microseconds on the hot path, carried away behind it."""

from __future__ import annotations
