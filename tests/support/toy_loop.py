"""A batch loop over the toy backend, driven by hand, with a clock that only steps move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.toy_backend import ToyBackend, ToyCodec, ToyConstraint

from farthing.inference.batch.admission import Admission, AdmissionRules
from farthing.inference.batch.loop import BatchLoop
from farthing.inference.batch.telling import Emission, Outcome
from farthing.inference.core.request import DoneEvent, EngineRequest, Sampling, TokenEvent
from farthing.inference.core.schedule.scheduler import Rules
from farthing.inference.energy import EnergyMeter


@dataclass
class Heard:
    """What was told of one request."""

    events: list[Outcome] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.events if isinstance(one, TokenEvent))

    @property
    def end(self) -> Outcome | None:
        last = self.events[-1] if self.events else None
        return None if isinstance(last, TokenEvent) else last

    @property
    def done(self) -> DoneEvent:
        assert isinstance(self.end, DoneEvent)
        return self.end


class ToyLoop:
    """Submits requests to a loop and hears of them."""

    def __init__(
        self,
        backend: ToyBackend | None = None,
        rules: Rules | None = None,
        *,
        draft_count: int = 0,
        queue_timeout_us: int = 0,
        us_per_reading: int = 50,
        energy: EnergyMeter | None = None,
        codec: ToyCodec | None = None,
    ) -> None:
        self.backend = backend or ToyBackend()
        self.now_ns = 0
        self.us_per_reading = us_per_reading
        self.loop = BatchLoop(
            self.backend,
            rules or Rules(),
            emit=self._hear,
            now_ns=self._read_clock,
            energy=energy,
        )
        self._admission = Admission(
            self.backend.model,
            self.backend.layout,
            codec or ToyCodec(),
            AdmissionRules(draft_count, queue_timeout_us),
            constrain=ToyConstraint,
        )
        self.heard: dict[int, Heard] = {}

    def submit(self, prompt: str, max_tokens: int = 20, **values: Any) -> int:
        job_id = len(self.heard)
        self.heard[job_id] = Heard()
        sampling = Sampling(**values.pop("sampling", {}))
        request = EngineRequest(
            f"r{job_id}", prompt=prompt, max_tokens=max_tokens, sampling=sampling, **values
        )
        self.loop.start(self._admission.admit(job_id, request, self.now_ns // 1000))
        return job_id

    def run(self, most_steps: int = 20_000) -> None:
        for _ in range(most_steps):
            if not self.loop.step() and self.loop.is_idle:
                return
        raise AssertionError(f"not done: {self.loop.occupancy()}")

    def _hear(self, emissions: Sequence[Emission]) -> None:
        for job_id, outcome in emissions:
            heard = self.heard[job_id]
            assert heard.end is None, "something was told after the end"
            heard.events.append(outcome)

    def _read_clock(self) -> int:
        self.now_ns += self.us_per_reading * 1000
        return self.now_ns
