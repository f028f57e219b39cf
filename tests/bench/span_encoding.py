"""What encoding a span costs, per span: run `python -m tests.bench.span_encoding` from the repository's root."""

from __future__ import annotations

import timeit

from farthing.kit.ids import new_id
from farthing.kit.telemetry.encode import SpanEncoder
from farthing.kit.telemetry.spans import SpanRecorder

_SPANS = 512


def main() -> None:
    recorder = SpanRecorder()
    for _ in range(_SPANS):
        span = recorder.start("farthing.api.router.v1.RouterService/Complete", "server")
        for number in range(16):
            span.set(f"farthing.attribute{number}", f"value {number}")
        span.set("farthing.request.id", new_id("req"))
        span.set("farthing.decision.rejected", "[{" + "x" * 200 + "}]")
        span.set("farthing.hold.nano_usd", 12_345)
        span.end("ok")
    records, encoder = recorder.drain(_SPANS), SpanEncoder({"service.name": "bench"})
    seconds = min(timeit.repeat(lambda: encoder.encode(records), number=3, repeat=5)) / 3
    print(f"{seconds / _SPANS * 1e6:.1f} us per span of 19 attributes, best of 5")


if __name__ == "__main__":
    main()
