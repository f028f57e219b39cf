"""`farthing ask` and `farthing explain`: one prompt, answered or only decided."""

from __future__ import annotations

from dataclasses import dataclass

import click
import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import (
    call,
    connect,
    current_settings,
    explain_error,
    require_key,
    run,
)
from farthing.cli.output import enum_word, print_json, print_table, printable, to_plain
from farthing.cli.request import PromptOptions, prompt_options
from farthing.cli.settings import CliSettings
from farthing.kit.errors import Internal
from farthing.kit.money import format_usd
from farthing.kit.rpc.channel import outgoing_metadata

_TIMEOUT_S = 300.0
_TIER = common_pb2.Tier.DESCRIPTOR
_KIND = common_pb2.CostKind.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole exchange with the router."""

    text: str
    decision: router_pb2.Decision
    result: router_pb2.Result


@click.command()
@prompt_options
@click.option("--stream/--no-stream", default=None, help="Print the answer as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ask(options: PromptOptions, stream: bool | None, as_json: bool) -> None:
    """Answer PROMPT ("-" reads it from standard input) and show what it cost and why it ran where it ran."""
    settings = current_settings()
    key = require_key(settings, admin=False)
    show = (stream is None or stream) and not as_json
    answered = run(_generate(settings, key, options.as_request(), show=show))
    if as_json:
        print_json(
            {
                "text": answered.text,
                "decision": to_plain(answered.decision),
                "result": to_plain(answered.result),
            }
        )
        return
    click.echo("" if show else printable(answered.text))
    click.echo(_footer(answered), err=True)


@click.command()
@prompt_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(options: PromptOptions, as_json: bool) -> None:
    """Show what would be decided for PROMPT now: every candidate, its figures, and why it won or lost."""
    settings = current_settings()
    key = require_key(settings, admin=False)
    decision = run(_explain(settings, key, options.as_request()))
    if as_json:
        print_json(to_plain(decision))
        return
    if decision.HasField("chosen"):
        click.secho(decision.reason, bold=True)
    else:
        click.secho("Nothing qualifies.", bold=True)
    click.echo(f"policy {decision.policy}, prices {decision.price_version}\n")
    print_candidates(decision)


def print_candidates(decision: router_pb2.Decision) -> None:
    """The winner and everything it was weighed against, as a table."""
    candidates = [decision.chosen] if decision.HasField("chosen") else []
    print_table(
        ("", "model", "tier", "region", "cost", "first", "total", "quality", "why"),
        [
            (
                "→" if index == 0 and candidates else "",
                item.model,
                enum_word(_TIER, item.tier),
                item.region,
                format_usd(item.estimated_nano_usd),
                f"{item.first_token_ms} ms",
                f"{item.total_ms} ms",
                f"{item.quality_ratio:.2f}",
                item.reason,
            )
            for index, item in enumerate([*candidates, *decision.rejected])
        ],
        right=(4, 5, 6, 7),
    )


async def _generate(
    settings: CliSettings, key: str, request: router_pb2.GenerateRequest, *, show: bool
) -> Answered:
    texts: list[str] = []
    decision: router_pb2.Decision | None = None
    result: router_pb2.Result | None = None
    async with connect(settings, settings.router_address) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        try:
            async for response in stub.Generate(
                request, timeout=_TIMEOUT_S, metadata=outgoing_metadata(None, key)
            ):
                kind = response.WhichOneof("event")
                if kind == "decision":
                    decision = response.decision
                elif kind == "delta":
                    texts.append(response.delta.text)
                    if show:
                        click.echo(printable(response.delta.text), nl=False)
                elif kind == "result":
                    result = response.result
        except grpc.aio.AioRpcError as error:
            if show and texts:
                click.echo()
            raise explain_error(error, settings.router_address) from None
    if decision is None or result is None:
        raise Internal("the router ended the stream without a result", reason="NO_RESULT")
    return Answered("".join(texts), decision, result)


async def _explain(
    settings: CliSettings, key: str, request: router_pb2.GenerateRequest
) -> router_pb2.Decision:
    async with connect(settings, settings.router_address) as channel:
        response = await call(
            router_pb2_grpc.RouterServiceStub(channel).Explain,
            router_pb2.ExplainRequest(request=request),
            key=key,
            address=settings.router_address,
        )
    return response.decision


def _footer(answered: Answered) -> str:
    chosen, result = answered.decision.chosen, answered.result
    usage = result.usage
    lines = " + ".join(
        f"{enum_word(_KIND, line.kind)} {format_usd(line.amount_nano_usd)}"
        for line in result.cost_lines
    )
    return (
        f"\n{chosen.model} · {enum_word(_TIER, chosen.tier)} · {chosen.region} · {result.latency_ms} ms · "
        f"{usage.input_token_count}+{usage.output_token_count} tokens · "
        f"{format_usd(result.total_nano_usd)}{f' = {lines}' if lines else ''}\n"
        f"{answered.decision.reason}\ntrace {result.trace_id}"
    )
