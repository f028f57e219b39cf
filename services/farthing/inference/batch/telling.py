"""What a loop tells of its jobs: tokens, joined where they may be, and ends; all of a turn together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from farthing.inference.batch.admission import Job
from farthing.inference.core.request import EngineEvent, TokenEvent
from farthing.kit.errors import FarthingError

Outcome = EngineEvent | FarthingError
Emission = tuple[int, Outcome]


class Telling:
    """Collects until `flush`, which gives `emit` what there is."""

    def __init__(self, emit: Callable[[Sequence[Emission]], None]) -> None:
        self._emit = emit
        self._out: list[Emission] = []

    def part(self, job: Job, now_us: int) -> None:
        """What is untold of a job's answer, if its turn has come."""
        if job.untold and job.may_tell(now_us):
            self.rest(job)

    def rest(self, job: Job) -> None:
        """What is untold of a job's answer, if anything."""
        if job.untold:
            event = _join(job.untold)
            job.meter.add_output(event.token_count, event.text)
            job.untold, job.shown = [], True
            self._out.append((job.job_id, event))

    def end(self, job: Job, outcome: Outcome) -> None:
        """The last word on a job."""
        self._out.append((job.job_id, outcome))

    def flush(self) -> None:
        """Send it, if there is anything."""
        if self._out:
            out, self._out = self._out, []
            self._emit(out)


def _join(events: list[TokenEvent]) -> TokenEvent:
    if len(events) == 1:
        return events[0]
    return TokenEvent(
        "".join(event.text for event in events),
        sum(event.token_count for event in events),
        tuple(logprob for event in events for logprob in event.logprobs),
    )
