"""Rules of the cloud tier: which slot lies where, and what fits into memory."""

from __future__ import annotations
