"""The model store that edge and cloud read and `farthing models` fills and keeps in order."""

from __future__ import annotations

from farthing.inference.store.contents import Entry, StoredModel
from farthing.inference.store.facts import ModelFacts
from farthing.inference.store.files import AddProgress, FileRecord, ProgressCallback
from farthing.inference.store.holds import Hold
from farthing.inference.store.hub import Hub
from farthing.inference.store.retrying import Retrying, RetryRules
from farthing.inference.store.store import ModelStore, StoreLimits, add_model
from farthing.inference.store.upkeep import Freed, GcWishes
from farthing.inference.store.verify import Verdict

__all__ = [
    "AddProgress",
    "Entry",
    "FileRecord",
    "Freed",
    "GcWishes",
    "Hold",
    "Hub",
    "ModelFacts",
    "ModelStore",
    "ProgressCallback",
    "RetryRules",
    "Retrying",
    "StoreLimits",
    "StoredModel",
    "Verdict",
    "add_model",
]
