"""A prompt and its wishes as command-line options, turned into the router's request."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.wishes import CACHE_MODES, PRIVACY_CLASSES
from farthing.kit.money import parse_usd

_F = TypeVar("_F", bound=Callable[..., Any])


class UsdType(click.ParamType[int]):
    """An amount in USD, exact to the nano."""

    name = "USD"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """See click."""
        if isinstance(value, int):
            return value
        try:
            amount = parse_usd(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if amount < 0:
            self.fail(f"{value} is negative", param, ctx)
        return amount


USD = UsdType()


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What was typed."""

    prompt: str
    system: str
    model: str
    task: str
    max_tokens: int
    temperature: float | None
    seed: int | None
    max_cost_nano_usd: int
    min_quality_ratio: float
    max_latency_ms: int
    policy: str
    residency: tuple[str, ...]
    privacy: str
    cache: str

    def as_request(self) -> router_pb2.GenerateRequest:
        """As the router takes it."""
        messages = [("system", self.system)] if self.system else []
        messages.append(("user", self.prompt))
        return router_pb2.GenerateRequest(
            model=self.model,
            input=inference_pb2.GenerationInput(
                messages=[
                    inference_pb2.Message(
                        role=inference_pb2.ROLE_SYSTEM
                        if role == "system"
                        else inference_pb2.ROLE_USER,
                        content=[inference_pb2.ContentPart(text=text)],
                    )
                    for role, text in messages
                ],
                max_tokens=self.max_tokens,
                sampling=inference_pb2.SamplingParams(
                    temperature=self.temperature, seed=self.seed
                ),
            ),
            constraints=router_pb2.Constraints(
                max_cost_nano_usd=self.max_cost_nano_usd,
                min_quality_ratio=self.min_quality_ratio,
                max_total_ms=self.max_latency_ms,
                residency=self.residency,
                privacy_class=PRIVACY_CLASSES.get(self.privacy),
                task=self.task,
                policy=self.policy,
                cache_mode=CACHE_MODES.get(self.cache),
            ),
        )


def prompt_options(command: _F) -> Callable[..., Any]:
    """Give a command the prompt argument and all wishes; it is called with one PromptOptions."""

    @click.argument("prompt")
    @click.option("--system", default="", help="System message.")
    @click.option("--model", default="", help="A model's name; any when left out.")
    @click.option("--task", default="", help="Task tag for quality, e.g. math.")
    @click.option(
        "--max-tokens", type=click.IntRange(1), default=None, help="Most tokens to generate."
    )
    @click.option("--temperature", type=click.FloatRange(0, 2), help="0 is greedy.")
    @click.option("--seed", type=int, help="Same seed, same answer.")
    @click.option("--max-cost", type=USD, default=0, help="Most it may cost, e.g. 0.001.")
    @click.option(
        "--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Least quality, 0..1."
    )
    @click.option(
        "--max-latency-ms",
        type=click.IntRange(0),
        default=0,
        help="Longest time, milliseconds.",
    )
    @click.option("--policy", default="", help="cheapest, balanced, fastest, greenest, best, …")
    @click.option("--residency", multiple=True, help="Region it may run in; repeatable.")
    @click.option(
        "--privacy",
        type=click.Choice(list(PRIVACY_CLASSES)),
        default=None,
        help="How far it may travel.",
    )
    @click.option(
        "--cache",
        type=click.Choice(list(CACHE_MODES)),
        default=None,
        help="Use of the answer cache.",
    )
    @functools.wraps(command)
    def wrapper(
        prompt: str,
        system: str,
        model: str,
        task: str,
        max_tokens: int | None,
        temperature: float | None,
        seed: int | None,
        max_cost: int,
        min_quality: float,
        max_latency_ms: int,
        policy: str,
        residency: tuple[str, ...],
        privacy: str | None,
        cache: str | None,
        **others: Any,
    ) -> Any:
        text = sys.stdin.read() if prompt == "-" else prompt
        if not text.strip():
            raise click.BadParameter(
                "is empty; write a prompt, or - to read it from standard input"
            )
        options = PromptOptions(
            prompt=text,
            system=system,
            model=model,
            task=task,
            max_tokens=max_tokens or 0,
            temperature=temperature,
            seed=seed,
            max_cost_nano_usd=max_cost,
            min_quality_ratio=min_quality,
            max_latency_ms=max_latency_ms,
            policy=policy,
            residency=residency,
            privacy=privacy or "",
            cache=cache or "",
        )
        return command(options, **others)

    return wrapper
