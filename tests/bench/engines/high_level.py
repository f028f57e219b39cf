"""llama-cpp-python's own `Llama`, one request after the other: for each line of JSON it answers how long they took."""

from __future__ import annotations

import json
import sys
import time

import llama_cpp


def main(path: str, context_length: int, thread_count: int) -> None:
    """Lines in: {"prompts": [...], "max_tokens": n}. Lines out: {"tokens_per_second": x}."""
    model = llama_cpp.Llama(
        path,
        n_ctx=context_length,
        n_threads=thread_count,
        n_threads_batch=thread_count,
        verbose=False,
    )
    bias = {model.token_eos(): -100.0}
    for line in sys.stdin:
        asked = json.loads(line)
        started_s = time.monotonic()
        count = 0
        for prompt in asked["prompts"]:
            model.reset()  # type: ignore[no-untyped-call]
            answer = model.create_completion(
                prompt, max_tokens=asked["max_tokens"], temperature=0, logit_bias=bias
            )
            count += answer["usage"]["completion_tokens"]  # type: ignore[index]
        per_second = count / (time.monotonic() - started_s)
        sys.stdout.write(json.dumps({"tokens_per_second": per_second}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
