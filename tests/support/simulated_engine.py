"""Drives a scheduler over simulated slots as an engine's loop does, and checks every step."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.simulated_slots import SimulatedSlots, next_token

from farthing.inference.core.cost_model import Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.prefixes import hash_blocks
from farthing.inference.core.schedule.scheduler import Rules, Scheduler
from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import Arrival, Plan

WEIGHTS = Weights(step_us=2_000, prefill_us=100, decode_us=400, kv_us=0.5)


@dataclass
class Wish:
    """A request of a test. `guesses` says how many tokens it guesses before each step, over and over."""

    prompt: list[int]
    token_limit: int = 4
    tenant: str = "a"
    priority: Priority = Priority.STANDARD
    adapter: str = ""
    guesses: tuple[int, ...] = (0,)
    deadline_us: int = 0


@dataclass
class Under:
    """A request under way, and when things happened to it, in engine time."""

    wish: Wish
    tokens: list[int]
    arrival_us: int
    reused_count: int = 0
    first_token_us: int = 0
    end_us: int = 0
    token_times_us: list[int] = field(default_factory=list)
    state: str = "waiting"
    pause_count: int = 0

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.wish.prompt) :]


class SimulatedEngine:
    """Time passes by the cost model: a step takes what `weights` predict."""

    def __init__(self, room: Room, rules: Rules | None = None, weights: Weights = WEIGHTS):
        self.slots = SimulatedSlots(room)
        self.scheduler = Scheduler(room, rules or Rules())
        self.weights = weights
        self.requests: dict[int, Under] = {}
        self.now_us = 0
        self.steps: list[Plan] = []
        self.step_us: list[int] = []

    def submit(self, wish: Wish) -> int:
        row_id = len(self.requests)
        chain = hash_blocks(wish.prompt, tenant_id=wish.tenant, adapter=wish.adapter)
        arrival = Arrival(
            row_id,
            wish.tenant,
            wish.priority,
            len(wish.prompt),
            wish.token_limit,
            self.now_us,
            chain,
            wish.adapter,
            wish.deadline_us,
        )
        self.requests[row_id] = Under(wish, list(wish.prompt), self.now_us)
        displaced = self.scheduler.submit(arrival)
        if displaced is not None:
            self.requests[displaced].state = "displaced"
        return row_id

    def cancel(self, row_id: int) -> None:
        if self.requests[row_id].state in ("waiting", "running"):
            self.requests[row_id].state = "cancelled"
            self.scheduler.cancel(row_id)
            self.slots.saved.pop(row_id, None)

    def guess(self) -> dict[int, list[int]]:
        """Guesses of this step: right ones at first, a wrong one now and then."""
        guesses: dict[int, list[int]] = {}
        for row_id, one in self.requests.items():
            wanted = one.wish.guesses[len(one.answer) % len(one.wish.guesses)]
            if one.state != "running" or not one.answer or not wanted:
                continue
            tokens = list(one.tokens)
            for place in range(wanted):
                right = next_token([*tokens, one.wish.adapter.__len__()])
                tokens.append(right if (len(tokens) + place) % 3 else (right + 1) % 5)
            guesses[row_id] = tokens[len(one.tokens) :]
            self.scheduler.guess(row_id, wanted)
        return guesses

    def step(self, *, lose: bool = False) -> bool:
        """One turn of the loop; False when there was nothing to compute."""
        guesses = self.guess()
        plan = self.scheduler.plan(self.now_us, self.weights)
        for row_id in plan.expired:
            self.requests[row_id].state = "expired"
        for row_id, reused_count in plan.began.items():
            self.requests[row_id].state = "running"
            self.requests[row_id].reused_count = reused_count
        for row_id in plan.paused:
            self.requests[row_id].pause_count += 1
        self.slots.move(plan.moves)
        if not plan.work:
            return False
        assert {self.requests[w.row_id].wish.adapter for w in plan.work} == {plan.adapter}
        sequences = {
            w.row_id: self.requests[w.row_id].tokens + guesses.get(w.row_id, [])
            for w in plan.work
        }
        self.steps.append(plan)
        if lose:
            self.slots.lose()
            self.scheduler.fail(self.now_us)
            return True
        self.slots.step(plan, sequences)
        self._pass_time(plan)
        self.scheduler.computed(plan.work)
        for work in plan.work:
            if work.samples:
                self._draw(work.row_id, guesses.get(work.row_id, [])[: work.draft_count])
        return True

    def run(self, most_steps: int = 20_000) -> None:
        """Until nothing is left to do."""
        for _ in range(most_steps):
            if not self.step():
                return
        raise AssertionError(
            f"not done after {most_steps} steps: {self.scheduler.occupancy(0)}"
        )

    def _draw(self, row_id: int, guesses: list[int]) -> None:
        one = self.requests[row_id]
        salt = len(one.wish.adapter)
        accepted = 0
        token = next_token([*one.tokens, salt])
        for guess in guesses:
            if guess != token:
                break
            one.tokens.append(token)
            accepted += 1
            token = next_token([*one.tokens, salt])
        one.tokens.append(token)
        one.token_times_us.append(self.now_us)
        one.first_token_us = one.first_token_us or self.now_us
        wish = one.wish
        chain = hash_blocks(one.tokens, tenant_id=wish.tenant, adapter=wish.adapter)
        self.scheduler.drew(row_id, accepted_count=accepted, chain=chain)
        assert len(one.answer) <= wish.token_limit
        if len(one.answer) == wish.token_limit:
            one.state, one.end_us = "done", self.now_us
            self.scheduler.finish(row_id)

    def _pass_time(self, plan: Plan) -> None:
        us = self.weights.step_us
        for work in plan.work:
            per_token = (
                self.weights.decode_us
                if work.samples and work.count - work.draft_count == 1
                else self.weights.prefill_us
            )
            us += work.count * (per_token + self.weights.kv_us * work.start)
        self.now_us += round(us)
        self.step_us.append(round(us))


def expected_answer(wish: Wish) -> list[int]:
    """The answer of the request alone."""
    tokens = list(wish.prompt)
    for _ in range(wish.token_limit):
        tokens.append(next_token([*tokens, len(wish.adapter)]))
    return tokens[len(wish.prompt) :]
