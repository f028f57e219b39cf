"""From a request to a job: all that can be done before its turn, away from the thread that computes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from farthing.inference.batch_backend import SlotLayout, TextCodec
from farthing.inference.core.draft import Drafter
from farthing.inference.core.generation import Generation
from farthing.inference.core.priority import Priority
from farthing.inference.core.prompt import encode_prompt, plan_token_limit, request_bytes
from farthing.inference.core.reasoning import ReasoningCounter, find_marks
from farthing.inference.core.request import EngineRequest, TokenEvent
from farthing.inference.core.request_meter import RequestMeter
from farthing.inference.core.sampling import Constraint
from farthing.inference.core.schedule.prefixes import BLOCK_TOKEN_COUNT, hash_blocks
from farthing.inference.core.schedule.values import Arrival
from farthing.inference.model import ModelDescription
from farthing.kit.errors import NotFound, Unimplemented

MakeConstraint = Callable[[str], Constraint]

# Tokens of the batch class are told so seldom: each message takes its share of the device's time from everybody.
_BATCH_COALESCE_US = 100_000


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """At most `draft_count` guesses a step. Who has not begun after `queue_timeout_us` is sent away; 0 never."""

    draft_count: int = 0
    queue_timeout_us: int = 0


@dataclass(eq=False, slots=True)
class Job:
    """One row and its answer. `tokens` are all that are known; `chain` the hashes of their whole blocks.

    `untold` is what was drawn and not shown yet.
    """

    request: EngineRequest
    arrival: Arrival
    tokens: list[int]
    chain: list[bytes]
    generation: Generation
    meter: RequestMeter
    drafter: Drafter
    guesses: list[int]
    untold: list[TokenEvent] = field(default_factory=list)
    shown: bool = False
    told_turn: int = -1
    failure_count: int = 0

    @property
    def job_id(self) -> int:
        return self.arrival.row_id

    def may_tell(self, now_us: int) -> bool:
        """Whether what is untold goes out now: the first of it at once, more in turns that all jobs alike have."""
        is_batch = self.request.priority == Priority.BATCH
        pause_us = max(self.request.coalesce_us, _BATCH_COALESCE_US if is_batch else 1)
        turn = now_us // pause_us
        is_new = turn != self.told_turn
        self.told_turn = turn
        return is_new

    def extend(self, tokens: list[int]) -> None:
        """More tokens are known."""
        self.tokens.extend(tokens)
        if len(self.tokens) // BLOCK_TOKEN_COUNT == len(self.chain):
            return
        self.chain = hash_blocks(
            self.tokens,
            tenant_id=self.request.tenant_id,
            adapter=self.request.adapter,
            before=self.chain,
        )


class Admission:
    """Makes jobs. May be used by a thread of its own."""

    def __init__(
        self,
        model: ModelDescription,
        layout: SlotLayout,
        codec: TextCodec,
        rules: AdmissionRules,
        *,
        constrain: MakeConstraint | None = None,
    ) -> None:
        self._model, self._layout, self._codec, self._rules = model, layout, codec, rules
        self._constrain = constrain
        self._marks = find_marks(codec)

    def admit(self, job_id: int, request: EngineRequest, now_us: int) -> Job:
        """InvalidArgument when prompt and answer do not fit or the schema is bad, NotFound for an unknown adapter."""
        if request.adapter and request.adapter not in self._model.adapters:
            raise NotFound(
                f"Model {self._model.name} has no adapter {request.adapter} here.",
                reason="ADAPTER_NOT_FOUND",
                metadata={"model": self._model.name, "adapter": request.adapter},
            )
        tokens = encode_prompt(request, self._codec, self._model.bos_ids)
        context_length = min(
            self._model.context_length,
            self._layout.slot_token_capacity,
            self._layout.token_capacity,
        )
        limit = plan_token_limit(len(tokens), request.max_tokens, context_length)
        constraint = None
        if request.json_schema:
            if self._constrain is None:
                raise Unimplemented(
                    f"Model {self._model.name} cannot keep to a JSON schema here.",
                    reason="CAPABILITY_MISSING",
                    metadata={"model": self._model.name, "capability": "json_schema"},
                )
            constraint = self._constrain(request.json_schema)
        chain = hash_blocks(tokens, tenant_id=request.tenant_id, adapter=request.adapter)
        drafter = Drafter(self._rules.draft_count)
        drafter.read(tokens)
        timeout_us = self._rules.queue_timeout_us
        arrival = Arrival(
            row_id=job_id,
            tenant_id=request.tenant_id,
            priority=request.priority,
            prompt_count=len(tokens),
            token_limit=limit,
            arrival_us=now_us,
            prefix=chain,
            adapter=request.adapter,
            deadline_us=now_us + timeout_us if timeout_us else 0,
        )
        seed = request.sampling.seed
        generation = Generation(
            request,
            token_limit=limit,
            seed=secrets.randbits(63) if seed is None else seed,
            eos_ids=self._model.eos_ids,
            token_bytes=self._codec.token_bytes,
            constraint=constraint,
            reasoning=ReasoningCounter(self._marks, tokens),
        )
        meter = RequestMeter(
            input_count=len(tokens),
            request_bytes=request_bytes(request),
            compute_limit_us=request.compute_limit_us,
        )
        return Job(request, arrival, tokens, chain, generation, meter, drafter, [])
