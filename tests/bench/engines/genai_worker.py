"""onnxruntime-genai, in an environment of its own: for each line of JSON it answers how fast it was.

`python genai_worker.py FOLDER THREADS [cpu|cuda]`. Lines in: {"kind": "generator", "rows", "prompt", "tokens"}, all
at once, or {"kind": "engine", "at_s": [...], "prompt", "tokens"}, a request at each of these seconds. Of a batch also
the seconds until every row has its first token, and in all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime_genai as og


def run_generator(model: Any, rows: int, prompt: int, tokens: int) -> dict[str, float]:
    """A batch that begins and ends together."""
    length = prompt + tokens
    params = og.GeneratorParams(model)
    params.set_search_options(
        do_sample=False, max_length=length, min_length=length, batch_size=rows
    )
    prompts = np.random.default_rng(rows).integers(5, 200, (rows, prompt), np.int32)
    started_s = time.monotonic()
    generator = og.Generator(model, params)
    generator.append_tokens(prompts)
    generator.generate_next_token()
    generator.get_next_tokens()  # on the host
    first_s = time.monotonic() - started_s
    while not generator.is_done():
        generator.generate_next_token()
    whole_s = time.monotonic() - started_s
    return {
        "tokens_per_second": rows * tokens / whole_s,
        "first_s": first_s,
        "whole_s": whole_s,
    }


def run_engine(model: Any, at_s: list[float], prompt: int, tokens: int) -> dict[str, float]:
    """Tokens per second from the first arrival to the last end."""
    engine = og.Engine(model)
    events = engine.create_event_buffer(64)
    draw = np.random.default_rng(len(at_s))
    waiting = sorted(at_s)
    live: list[Any] = []
    count = 0
    started_s = time.monotonic()
    while waiting or live:
        while waiting and time.monotonic() - started_s >= waiting[0]:
            waiting.pop(0)
            options = og.RequestOptions()
            options.set_max_session_tokens(prompt + tokens)
            request = engine.create_request(options=options)
            turn = og.TurnOptions(request)
            turn.set_do_sample(False)
            turn.set_max_generated_tokens(tokens)
            turn.set_min_generated_tokens(tokens)
            request.begin_turn(draw.integers(5, 200, prompt, np.int32), turn)
            live.append(request)
        if not live:
            time.sleep(max(0.0, waiting[0] - (time.monotonic() - started_s)))
            continue
        for event in engine.run(events):
            flags = int(event.flags.value)
            if flags & int(og.EngineEventFlags.TOKEN.value):
                count += 1
            if flags & int(og.EngineEventFlags.FAILED.value):
                raise RuntimeError(f"the engine failed: {event.error_code}")
            if flags & int(og.EngineEventFlags.TURN_FINISHED.value):
                ended = next(
                    one for one in live if one is event.request or one == event.request
                )
                live.remove(ended)
                ended.close()
    return {"tokens_per_second": count / (time.monotonic() - started_s)}


def main(folder: str, thread_count: int, device: str = "cpu") -> None:
    """Answers until stdin ends."""
    config = og.Config(folder)
    if device != "cpu":
        config.clear_providers()
        config.append_provider(device)
    options = {
        "session_options": {"intra_op_num_threads": thread_count} if thread_count else {}
    }
    config.overlay(
        json.dumps(
            {
                "model": {"decoder": options},
                "engine": {"static_batching": {"max_batch_size": 16}},
            }
        )
    )
    model = og.Model(config)
    for line in sys.stdin:
        asked = json.loads(line)
        kind = asked.pop("kind")
        try:
            run = run_generator if kind == "generator" else run_engine
            answer: dict[str, Any] = run(model, **asked)
        except (
            Exception
        ) as error:  # told to the benchmark, which says what it could not compare
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
