"""A batch loop over a real backend, driven by hand, and what every such loop keeps to."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.inference_contract import greedy_reference
from tests.support.toy_loop import Heard

from farthing.inference.batch.admission import Admission, AdmissionRules
from farthing.inference.batch.loop import BatchLoop
from farthing.inference.batch.telling import Emission
from farthing.inference.batch_backend import SlotWork
from farthing.inference.core.detokenize import Detokenizer
from farthing.inference.core.priority import Priority
from farthing.inference.core.request import (
    EngineRequest,
    FinishReason,
    Sampling,
    TokenEvent,
)
from farthing.inference.core.schedule.scheduler import Rules
from farthing.inference.process.server import LoadedEngine
from farthing.kit.errors import FarthingError, Internal

SCHEDULE_COUNT = 120
_BEGINNINGS = (
    "",
    "You are a helpful clerk of a small shop. ",
    "Answer in one word, and be brief: ",
)


class LossyBackend:
    """The backend, whose next step can be told to be lost."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.loses_next = False

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> Any:
        output = self._backend.step(work, adapter)
        if self.loses_next:
            self.loses_next = False
            raise Internal("lost on purpose", reason="ENGINE_STEP_FAILED")
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class LoopLab:
    """Submits requests to a loop over a loaded engine, and hears of them."""

    def __init__(self, engine: LoadedEngine, rules: Rules, *, draft_count: int = 0) -> None:
        self.engine = engine
        self.backend = LossyBackend(engine.backend)
        engine.backend.reset()
        self.loop = BatchLoop(self.backend, rules, emit=self._hear, now_ns=time.perf_counter_ns)
        self._admission = Admission(
            engine.backend.model,
            engine.backend.layout,
            engine.codec,
            AdmissionRules(draft_count),
            constrain=engine.constrain,
        )
        self.heard: dict[int, Heard] = {}

    def submit(self, prompt: str, max_tokens: int, **values: Any) -> int:
        job_id = len(self.heard)
        self.heard[job_id] = Heard()
        request = EngineRequest(f"r{job_id}", prompt=prompt, max_tokens=max_tokens, **values)
        now_us = time.perf_counter_ns() // 1000
        self.loop.start(self._admission.admit(job_id, request, now_us))
        return job_id

    def run(self) -> None:
        for _ in range(100_000):
            if not self.loop.step() and self.loop.is_idle:
                return
        raise AssertionError(f"not done: {self.loop.occupancy()}")

    def _hear(self, emissions: Sequence[Emission]) -> None:
        for job_id, outcome in emissions:
            heard = self.heard[job_id]
            assert heard.end is None, "something was told after the end"
            heard.events.append(outcome)


class LoopContract:
    """Subclass it with a module-scoped fixture `engine` that has few slots and keeps to full precision."""

    @pytest.mark.slow
    def test_any_schedule_answers_as_each_request_alone(self, engine: LoadedEngine) -> None:
        expected = Expected(engine)
        paused_count = reused_count = right_count = lost_count = 0
        for seed in range(SCHEDULE_COUNT):
            totals = run_schedule(engine, expected, seed).loop.totals
            paused_count += totals.pause_count
            reused_count += totals.reused_count
            right_count += totals.right_count
            lost_count += totals.lost_step_count
        # The schedules are of use only while they meet all this.
        assert paused_count and reused_count and lost_count
        assert right_count or not engine.backend.layout.cuts_freely

    def test_equal_seeds_give_equal_answers_whoever_is_beside(
        self, engine: LoadedEngine
    ) -> None:
        sampling = Sampling(temperature=1.1, top_p=0.95, seed=7)
        alone = LoopLab(engine, Rules())
        alone.submit("the order of a customer", 24, sampling=sampling)
        alone.run()
        for seed in range(6):
            draw = random.Random(seed)
            lab = LoopLab(engine, Rules())
            for number in range(draw.randrange(1, 5)):
                lab.submit(
                    f"mate {number}", 30, sampling=Sampling(temperature=1.0, seed=number)
                )
                for _ in range(draw.randrange(3)):
                    lab.loop.step()
            job_id = lab.submit("the order of a customer", 24, sampling=sampling)
            lab.run()
            assert lab.heard[job_id].text == alone.heard[0].text

    def test_sampled_tokens_are_distributed_as_the_model_says(
        self, engine: LoadedEngine
    ) -> None:
        prompt, temperature, count = "the order", 0.8, 2_000
        tokens = [*engine.backend.model.bos_ids, *engine.codec.tokenize(prompt, special=False)]
        engine.backend.reset()
        logits = engine.backend.step([SlotWork(0, 0, tokens)]).row(0) / temperature
        weights = [math.exp(float(one)) for one in logits - logits.max()]
        lab = LoopLab(engine, Rules(queue_capacity=count))
        for seed in range(count):
            sampling = Sampling(temperature=temperature, seed=seed)
            lab.submit(prompt, 1, sampling=sampling, logprobs=True)
        lab.run()
        wanted: Counter[str] = Counter()
        ends = engine.backend.model.eos_ids
        for token, weight in enumerate(weights):
            text = (
                ""
                if token in ends
                else engine.codec.token_bytes(token).decode("utf-8", "replace")
            )
            wanted[text] += count * weight / sum(weights)  # type: ignore[assignment]
        seen = Counter(_first_text(heard) for heard in lab.heard.values())
        assert chi_square_excess(seen, wanted) < 1


class Expected:
    """Greedy answers of the unbatched reference, each computed once."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._engine = engine
        self._known: dict[str, list[int]] = {}

    def text(self, prompt: str, count: int) -> str:
        """The first `count` tokens of the answer, or all when there are fewer."""
        if prompt not in self._known:
            model = self._engine.backend.model
            tokens = [*model.bos_ids, *self._engine.codec.tokenize(prompt, special=False)]
            self._known[prompt] = greedy_reference(self._engine, tokens, MOST_TOKENS)
        detokenizer = Detokenizer()
        pieces = map(self._engine.codec.token_bytes, self._known[prompt][:count])
        return "".join(map(detokenizer.feed, pieces))


MOST_TOKENS = 14


def run_schedule(engine: LoadedEngine, expected: Expected, seed: int) -> LoopLab:
    """One random schedule, compared with the reference, and its bills with the time the engine was busy."""
    draw = random.Random(seed)
    prompts = [
        draw.choice(_BEGINNINGS)
        + f"Order {draw.randrange(40)}"
        + draw.choice(("", "?", " is late."))
        for _ in range(draw.randrange(4, 12))
    ]
    counts = [draw.randrange(1, MOST_TOKENS + 1) for _ in prompts]
    answers = [
        expected.text(prompt, count) for prompt, count in zip(prompts, counts, strict=True)
    ]
    rules = Rules(save_token_capacity=draw.choice((0, 60, 10_000)))
    lab = LoopLab(engine, rules, draft_count=draw.choice((0, 0, 3)))
    cancelled: set[int] = set()
    lost_at = draw.randrange(3 * len(prompts))  # in a third of the schedules
    for prompt, count in zip(prompts, counts, strict=True):
        job_id = lab.submit(
            prompt, count, priority=draw.choice(list(Priority)), tenant_id=draw.choice("ab")
        )
        if job_id == lost_at:  # twice would be the end of a request that was in both
            lab.backend.loses_next = True
        for _ in range(draw.choice((0, 0, 1, 3))):
            lab.loop.step()
        if draw.random() < 0.1 and lab.heard[job_id].end is None:
            lab.loop.cancel(job_id)
            cancelled.add(job_id)
    lab.run()
    billed_us = 0
    for job_id, answer in enumerate(answers):
        heard = lab.heard[job_id]
        assert not isinstance(heard.end, FarthingError), (seed, heard.end)
        usage = heard.done.usage
        billed_us += usage.prefill_us + usage.decode_us
        if job_id in cancelled:
            assert heard.done.finish_reason is FinishReason.CANCELLED
            assert answer.startswith(heard.text), seed
        else:
            assert heard.text == answer, (seed, prompts[job_id])
    assert billed_us == lab.loop.totals.busy_us, seed
    occupancy = lab.loop.occupancy()
    assert (occupancy.running_count, occupancy.waiting_count, occupancy.paused_count) == (
        0,
        0,
        0,
    )
    assert (occupancy.kv_token_count, occupancy.saved_token_count) == (0, 0)
    return lab


def chi_square_excess(seen: Counter[str], wanted: Counter[str]) -> float:
    """Pearson's statistic over its 99.9 % quantile (Wilson and Hilferty 1931); below 1 is as expected.

    What is expected less than 5 times counts together.
    """
    rare = {text for text, count in wanted.items() if count < 5}
    pairs = [(seen[text], count) for text, count in wanted.items() if text not in rare]
    pairs.append((sum(seen[text] for text in rare), sum(wanted[text] for text in rare)))
    statistic = sum((a - b) ** 2 / b for a, b in pairs if b > 0)
    freedom = len(pairs) - 1
    spread = 2 / (9 * freedom)
    return statistic / (freedom * (1 - spread + 3.0902 * math.sqrt(spread)) ** 3)


def _first_text(heard: Heard) -> str:
    for event in heard.events:
        if isinstance(event, TokenEvent) and event.logprobs:
            return event.logprobs[0].token
    return ""
