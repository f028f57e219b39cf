"""What to load and how, as a value that also travels to the self-test's process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from farthing.inference.core.card import ModelCard


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model file and its limits. `context_length` is cut to what the model was trained for."""

    path: Path
    name: str
    digest: str
    card: ModelCard
    context_length: int
    thread_count: int
    prefill_chunk_token_count: int

    def to_json(self) -> str:
        """As an argument for another process; without the card, which takes no part in computing."""
        values = asdict(self)
        del values["card"]
        return json.dumps({**values, "path": str(self.path)})

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """Back from `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "path": Path(values["path"]), "card": ModelCard()})
