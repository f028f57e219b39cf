"""The book of record: charges exactly once in double entry, OTLP intake, spend queries, web console."""

from __future__ import annotations
