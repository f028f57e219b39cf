"""What one demo prompt came to, whichever way it went in: one shape for the screen and for build/run.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farthing.api.router.v1 import router_pb2
from farthing.cli.output import to_plain
from farthing.kit.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class DemoPrompt:
    """One prompt of the demo models' held-out set, with its only right answer.

    `wishes` are words of the gateway's `farthing` object; without them the tenant's own policy decides.
    """

    id: str
    task: str
    level: str
    messages: tuple[Mapping[str, str], ...]
    expected: str
    wishes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the user says."""
        return "\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True, slots=True)
class CostEntry:
    """One line of a cost."""

    kind: str
    nano_usd: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """A candidate that lost."""

    tier: str
    model: str
    region: str
    estimated_nano_usd: int
    reason: str


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """An answered prompt."""

    task: str
    level: str
    interface: str
    """"http" for the OpenAI-compatible gateway, "grpc" for the router."""
    wishes: Mapping[str, Any]
    prompt: str
    answer: str
    expected: str
    correct: bool
    """Letter by letter the expected answer, as in the model card."""
    tier: str
    model: str
    region: str
    latency_ms: int
    usage: Mapping[str, Any]
    cost_lines: tuple[CostEntry, ...]
    total_nano_usd: int
    trace_id: str
    decision_reason: str
    rejected: tuple[Alternative, ...]


def read_prompts(assets: Path) -> list[DemoPrompt]:
    """The prompts of demo-models/prompts.json, with what demo/wishes.json has each ask for.

    FailedPrecondition when the prompts are missing.
    """
    path = assets / "demo-models" / "prompts.json"
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FailedPrecondition(
            f"{path}: {error.strerror}; run `make models`", reason="PROMPTS_MISSING"
        ) from None
    wanted = assets / "demo" / "wishes.json"
    wishes = json.loads(wanted.read_text(encoding="utf-8")) if wanted.exists() else {}
    return [
        DemoPrompt(
            id=item["id"],
            task=item["task"],
            level=item["level"],
            messages=tuple(item["messages"]),
            expected=item["expected_answer"],
            wishes=wishes.get(item["id"], {}),
        )
        for item in items
    ]


def record_http(prompt: DemoPrompt, body: Mapping[str, Any]) -> PromptRecord:
    """From the gateway's reply. KeyError when it is not one."""
    bill = body["farthing"]
    decision = bill["decision"]
    answer = body["choices"][0]["message"]["content"] or ""
    return PromptRecord(
        task=prompt.task,
        level=prompt.level,
        interface="http",
        wishes=prompt.wishes,
        prompt=prompt.text,
        answer=answer,
        expected=prompt.expected,
        correct=answer == prompt.expected,
        tier=bill["tier"],
        model=bill["model"],
        region=bill["region"],
        latency_ms=bill["latency_ms"],
        usage={
            "input_token_count": body["usage"]["prompt_tokens"],
            "output_token_count": body["usage"]["completion_tokens"],
        },
        cost_lines=tuple(
            CostEntry(line["kind"], line["nano_usd"]) for line in bill["cost_lines"]
        ),
        total_nano_usd=bill["total_nano_usd"],
        trace_id=bill["trace_id"],
        decision_reason=decision["reason"],
        rejected=tuple(
            Alternative(
                tier=item["tier"],
                model=item["model"],
                region=item["region"],
                estimated_nano_usd=item["estimated_nano_usd"],
                reason=item["reason"],
            )
            for item in decision["rejected"]
        ),
    )


def record_grpc(
    prompt: DemoPrompt, answer: str, decision: router_pb2.Decision, result: router_pb2.Result
) -> PromptRecord:
    """From the router's events."""
    chosen = to_plain(decision.chosen)
    plain = to_plain(result)
    usage = plain.get("usage", {})
    return PromptRecord(
        task=prompt.task,
        level=prompt.level,
        interface="grpc",
        wishes=prompt.wishes,
        prompt=prompt.text,
        answer=answer,
        expected=prompt.expected,
        correct=answer == prompt.expected,
        tier=chosen["tier"],
        model=chosen["model"],
        region=chosen["region"],
        latency_ms=result.latency_ms,
        usage={
            "input_token_count": usage.get("input_token_count", 0),
            "output_token_count": usage.get("output_token_count", 0),
        },
        cost_lines=tuple(
            CostEntry(line["kind"], line["amount_nano_usd"]) for line in plain["cost_lines"]
        ),
        total_nano_usd=result.total_nano_usd,
        trace_id=result.trace_id,
        decision_reason=decision.reason,
        rejected=tuple(
            Alternative(
                tier=item["tier"],
                model=item["model"],
                region=item["region"],
                estimated_nano_usd=item["estimated_nano_usd"],
                reason=item["reason"],
            )
            for item in to_plain(decision)["rejected"]
        ),
    )


def write_records(path: Path, records: list[PromptRecord]) -> None:
    """Write the report, one object per prompt, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.new")
    temporary.write_text(
        json.dumps([asdict(record) for record in records], indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    temporary.replace(path)
