"""Random requests of every kind that a service takes: same seed, same requests."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb

SCHEMAS = (
    {
        "type": "object",
        "properties": {"found": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
        "required": ["found", "colour"],
        "additionalProperties": False,
    },
    {"enum": ["yes", "no", "perhaps"]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
)
_TENANTS = ("red", "green", "blue", "grey")
_PRIORITIES = (
    common_pb2.PRIORITY_INTERACTIVE,
    common_pb2.PRIORITY_STANDARD,
    common_pb2.PRIORITY_BATCH,
)
_LONGEST_ANSWER = 64
_SYSTEM_COUNT = 12
_OVER_KEPT_CALL = 0.75  # as routers ask; the rest by calls of their own


class Way(Enum):
    """How a request is sent and what becomes of it."""

    STREAM = "streamed to the end"
    LEAVE = "left after some tokens"
    LEAVE_EARLY = "left before the first token"
    WHOLE = "answered whole"
    SCHEMA = "held to a schema"
    EMBED = "embedded"
    BAD = "refused"


_WEIGHTS = {
    Way.STREAM: 50,
    Way.LEAVE: 14,
    Way.LEAVE_EARLY: 6,
    Way.WHOLE: 14,
    Way.SCHEMA: 10,
    Way.EMBED: 3,
    Way.BAD: 3,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `leave_after` deltas its caller goes away; `texts` are those to embed."""

    way: Way
    request: pb.GenerateRequest
    over_kept_call: bool = False
    leave_after: int = 0
    texts: tuple[str, ...] = ()


class Mixture:
    """Draws requests that fit the model."""

    def __init__(self, model: pb.ModelInfo, seed: int) -> None:
        self._model, self._draw = model, random.Random(seed)
        # A byte is a token at most; the chat template adds a few.
        self._most_prompt = model.context_length - _LONGEST_ANSWER - 24
        self._systems = [
            self._letters(self._draw.randint(40, self._most_prompt // 2))
            for _ in range(_SYSTEM_COUNT)
        ]
        able = set(model.capabilities)
        left_out = {Way.EMBED} if pb.CAPABILITY_EMBEDDINGS not in able else set()
        self._ways = [way for way in Way if way not in left_out]
        self._adapters: Sequence[str] = [""] * 4 + list(model.adapters)

    def next(self) -> Ask:
        """Another request."""
        draw = self._draw
        [way] = draw.choices(self._ways, [_WEIGHTS[one] for one in self._ways])
        request = self._request()
        if way is Way.EMBED:
            count = draw.randint(1, 4)
            texts = tuple(self._letters(draw.randint(4, 60)) for _ in range(count))
            return Ask(way, request, texts=texts)
        if way is Way.BAD:
            request.input.sampling.temperature = 3.0
        elif way is Way.SCHEMA:
            shape = request.input.response_format
            shape.kind = pb.RESPONSE_FORMAT_KIND_JSON_SCHEMA
            shape.json_schema = json.dumps(draw.choice(SCHEMAS))
            request.compute_limit_us = 0
            request.input.ClearField("stop")
            request.input.candidate_count = 0
            request.input.max_tokens = _LONGEST_ANSWER
        elif way is Way.WHOLE and draw.random() < 0.3:
            request.input.candidate_count = draw.randint(2, 4)
        over_kept_call = draw.random() < _OVER_KEPT_CALL
        return Ask(way, request, over_kept_call, leave_after=draw.randint(1, 12))

    def fill(self) -> pb.GenerateRequest:
        """A request that fills a slot to its end, so that its memory is touched before any of it is watched."""
        length = self._model.context_length
        text = self._letters(length // 2)
        request = pb.GenerateRequest(model=self._model.name, priority=_PRIORITIES[2])
        request.input.prompt, request.input.max_tokens = text, length - len(text) - 8
        return request

    def _request(self) -> pb.GenerateRequest:
        draw = self._draw
        text = draw.choice(self._systems) if draw.random() < 0.6 else ""
        text += self._letters(draw.randint(4, self._most_prompt - len(text)))
        asked = pb.GenerationInput(
            max_tokens=draw.randint(1, _LONGEST_ANSWER), sampling=self._sampling()
        )
        if pb.CAPABILITY_CHAT in self._model.capabilities and draw.random() < 0.3:
            asked.messages.add(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
        else:
            asked.prompt = text
        if draw.random() < 0.1:
            asked.logprobs, asked.top_logprobs = True, draw.randint(0, 3)
        if draw.random() < 0.1:
            asked.stop.extend(draw.choices(string.ascii_lowercase, k=2))
        return pb.GenerateRequest(
            model=self._model.name,
            tenant_id=draw.choice(_TENANTS),
            priority=draw.choice(_PRIORITIES),
            adapter=draw.choice(self._adapters),
            coalesce_ms=draw.choice((0, 0, 20)),
            compute_limit_us=10_000_000 if draw.random() < 0.05 else 0,
            input=asked,
        )

    def _sampling(self) -> pb.SamplingParams:
        draw = self._draw
        if draw.random() < 0.5:
            return pb.SamplingParams(temperature=0.0)
        return pb.SamplingParams(
            temperature=draw.uniform(0.2, 1.5),
            top_p=draw.uniform(0.5, 1.0),
            top_k=draw.choice((0, 5, 40)),
            seed=draw.randrange(1 << 40),
            presence_penalty=draw.choice((0.0, 0.5)),
        )

    def _letters(self, count: int) -> str:
        return "".join(self._draw.choices(string.ascii_lowercase + " ", k=count))
