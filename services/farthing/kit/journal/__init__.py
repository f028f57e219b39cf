"""A journal: entries of several kinds in append-only files, each kind acknowledged in order, then deleted."""

from __future__ import annotations

from farthing.kit.journal.journal import Journal
from farthing.kit.journal.records import MAX_NAME_LENGTH, MAX_PAYLOAD_BYTES, Entry
from farthing.kit.journal.recovery import Backlog
from farthing.kit.journal.segment import Position

__all__ = ["MAX_NAME_LENGTH", "MAX_PAYLOAD_BYTES", "Backlog", "Entry", "Journal", "Position"]
