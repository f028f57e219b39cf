"""What the spans of a routed request cost: recorded, and recorded, encoded and put into batches.

Run `python -m tests.bench.span_encoding` from the repository's root; `--against DIR` measures another checkout of it
as well, in turns. The same by opentelemetry-sdk's spans and encoder stands beside it.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.instances.view import InstanceView, ModelView
from farthing.clients.quota import Principal
from farthing.kit.ids import new_id
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import Attributes, Deferred, Description
from farthing.kit.telemetry.cost import PricedUsage, describe_cost
from farthing.kit.telemetry.encode import BatchEncoder, SpanEncoder
from farthing.kit.telemetry.spans import NullRecorder, SpanRecorder
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision
from farthing.router.describe import describe_attempt, describe_decision
from farthing.router.validation import check_request

ROOT = Path(__file__).parents[2]
_REQUESTS = 500
_ROUNDS = 15
_RESOURCE = {"service.name": "router", "cloud.region": "edge-site"}
_METHOD = "farthing.api.router.v1.RouterService/Complete"
_RPC = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: _METHOD}
_PRINCIPAL = Principal("key_1", "acme", "lab", "team-1", "balanced", False)
_CHECKED = check_request(
    router_pb2.GenerateRequest(
        input=inference_pb2.GenerationInput(prompt="hello", max_tokens=100),
        constraints=router_pb2.Constraints(task="bench"),
    )
)
_numbers = itertools.count(1_000_000)


def _candidate(number: int) -> Candidate:
    instance = InstanceView(f"edge-{number}", "edge", "edge-site", f"127.0.0.1:{number}")
    return Candidate(instance, ModelView(f"model-{number}"), estimated_nano_usd=1_000 * number)


_CHOSEN = _candidate(1)


def _decide(number: int, losers: list[Candidate]) -> Decision:
    reason = f"model-1 in edge-site (edge): estimated $0.00{number}, 12 ms, quality 0.90; the cheapest"
    return Decision(_CHOSEN, tuple(losers), "balanced", "2026-11", reason)


def _price(number: int) -> PricedUsage:
    lines = (("compute", number), ("energy", 700), ("egress", 20))
    return PricedUsage(
        40, 10, 0, 0, number + 720, lines, "2026-11", new_id("charge"), False, number // 7, 1000
    )


def serve(recorder: SpanRecorder, losers: list[Candidate]) -> None:
    """The spans of one request, as the RPC wrapper and the router make them."""
    number = next(_numbers)
    call = recorder.start(_METHOD, names.KIND_SERVER, None, _RPC)
    attempt = recorder.start("chat model-1", names.KIND_CLIENT, call.context)
    if attempt.recording:
        attempt.update(describe_attempt(_CHECKED, _CHOSEN, stream=False))
        decision = _decide(number, losers)
        call.update(describe_decision(_CHECKED, decision, new_id("dec"), _PRINCIPAL, number))
        attempt.update(partial(describe_cost, _price(number)))
        attempt.set(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, 1e-9 * number)
        attempt.set(names.GEN_AI_RESPONSE_FINISH_REASONS, ["length"])
    attempt.end("ok")
    call.set(names.RPC_STATUS_CODE, "OK")
    call.end("ok")


def serve_by_sdk(tracer: Tracer, losers: list[Candidate]) -> None:
    """The same on opentelemetry-sdk's spans."""
    number = next(_numbers)
    call = tracer.start_span(_METHOD, kind=SpanKind.SERVER, attributes=_RPC)
    attempt = tracer.start_span("chat model-1", set_span_in_context(call), SpanKind.CLIENT)
    attempt.set_attributes(_values(describe_attempt(_CHECKED, _CHOSEN, stream=False)))
    decision = _decide(number, losers)
    call.set_attributes(
        _values(describe_decision(_CHECKED, decision, new_id("dec"), _PRINCIPAL, number))
    )
    attempt.set_attributes(describe_cost(_price(number)).values)
    attempt.set_attribute(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, 1e-9 * number)
    attempt.set_attribute(names.GEN_AI_RESPONSE_FINISH_REASONS, ["length"])
    for span in (attempt, call):
        span.set_status(StatusCode.OK)
    attempt.end()
    call.set_attribute(names.RPC_STATUS_CODE, "OK")
    call.end()


def _values(later: Deferred) -> Attributes:
    told = later()
    return told.values if isinstance(told, Description) else told


class _Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def batches_of(recorder: SpanRecorder) -> Callable[[], None]:
    """What takes the spans of `recorder` and makes requests of them."""
    encoder, batches = SpanEncoder(), BatchEncoder(_RESOURCE)

    def drain() -> None:
        while records := recorder.drain(1024):
            batches.encode([encoder.encode(record) for record in records])

    return drain


def best_us(serve_one: Callable[[], None], finish: Callable[[], object]) -> float:
    """Microseconds a request in the best of the rounds."""
    best_s = float("inf")
    gc.disable()
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_REQUESTS):
            serve_one()
        finish()
        best_s = min(best_s, time.perf_counter() - started)
    return best_s / _REQUESTS * 1e6


def measure(losers: list[Candidate]) -> tuple[float, float]:
    """Microseconds a request beyond one that nobody records: recorded, and recorded and encoded."""
    null, kept, sent = NullRecorder(), SpanRecorder(), SpanRecorder()
    nothing_us = best_us(lambda: serve(null, losers), lambda: None)
    recorded_us = best_us(lambda: serve(kept, losers), lambda: kept.drain(1 << 20))
    encoded_us = best_us(lambda: serve(sent, losers), batches_of(sent))
    return recorded_us - nothing_us, encoded_us - nothing_us


def measure_sdk(losers: list[Candidate]) -> float:
    """Microseconds a request on opentelemetry-sdk's spans and by its encoder."""
    provider, kept = TracerProvider(), _Kept()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer(names.SCOPE)

    def finish() -> None:
        encode_spans(kept.spans).SerializeToString()
        kept.spans.clear()

    return best_us(lambda: serve_by_sdk(tracer, losers), finish)


def in_checkout(root: Path, loser_count: int) -> tuple[float, float]:
    """`measure` as a checkout has it, in a process of its own."""
    path = [str(root), *(str(root / part) for part in ("services", "protos"))]
    output = subprocess.run(
        [sys.executable, "-m", "tests.bench.span_encoding", "--figures", "--losers", str(loser_count)],
        cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    recorded_us, encoded_us = map(float, output.split())
    return recorded_us, encoded_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losers", type=int, default=3, help="rejected candidates a decision")
    parser.add_argument("--turns", type=int, default=5, help="processes of each checkout")
    parser.add_argument("--against", type=Path, help="another checkout to measure too")
    parser.add_argument("--figures", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    losers = [
        _candidate(number).reject(Rejection.COST, f"objective $0.00{number} against $0.001")
        for number in range(2, 2 + options.losers)
    ]
    if options.figures:
        print(*measure(losers))
        return
    roots = {"here": ROOT, **({"there": options.against} if options.against else {})}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in roots}
    for _ in range(options.turns):
        for name, root in roots.items():
            taken[name].append(in_checkout(root, options.losers))
    for name, figures in taken.items():
        recorded_us, encoded_us = (min(column) for column in zip(*figures, strict=True))
        print(
            f"{name}: {recorded_us:.1f} us a request (2 spans) recorded, {encoded_us:.1f} recorded and encoded"
        )
    print(f"by opentelemetry-sdk: {measure_sdk(losers):.1f} us, recorded and encoded")


if __name__ == "__main__":
    main()
