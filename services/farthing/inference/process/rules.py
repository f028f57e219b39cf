"""How an engine schedules and admits, as a value that travels to its process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from farthing.inference.batch.admission import AdmissionRules
from farthing.inference.core.schedule.budget import StepTargets
from farthing.inference.core.schedule.scheduler import Rules


@dataclass(frozen=True, slots=True)
class EngineRules:
    """The rules of both."""

    schedule: Rules = field(default_factory=Rules)
    admission: AdmissionRules = field(default_factory=AdmissionRules)

    def to_json(self) -> str:
        """As an argument for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EngineRules:
        """Back from `to_json`."""
        values = json.loads(text)
        schedule = values["schedule"]
        targets = StepTargets(**schedule.pop("targets"))
        return cls(Rules(**schedule, targets=targets), AdmissionRules(**values["admission"]))
