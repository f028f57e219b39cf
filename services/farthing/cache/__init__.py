"""The shared tier of the answer cache: exact, partitioned by tenant, bounded in bytes, kept over restarts."""

from __future__ import annotations
