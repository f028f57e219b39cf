"""The model store that edge and cloud read and `farthing models add` fills."""

from __future__ import annotations

from farthing.inference.store.facts import ModelFacts
from farthing.inference.store.files import AddProgress, ProgressCallback
from farthing.inference.store.hub import Hub
from farthing.inference.store.store import ModelStore, StoredModel, add_model

__all__ = [
    "AddProgress",
    "Hub",
    "ModelFacts",
    "ModelStore",
    "ProgressCallback",
    "StoredModel",
    "add_model",
]
