"""What steps of the llama.cpp backend cost, in processor time, so that other work on the machine matters little.

`python -m tests.bench.edge_engine layout|mixed|drafts|copies|sampling|share|rows` makes random models below
build/bench. Ways that are compared take turns within one process; figures are medians in milliseconds unless they say
otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# As the edge's own entry point does, before OpenMP reads it.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as llama
from tests.bench.random_gguf import WEIGHTS, Size, write_random_gguf

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.edge.row_padding import RowPadding
from farthing.inference.batch_backend import SlotWork
from farthing.inference.core.card import ModelCard

Work = list[SlotWork]
WAYS: dict[str, dict[str, Any]] = {
    "split, separate": {"flash_attention": "off"},
    "split, fused": {"flash_attention": "on"},
    "pool, fused": {"flash_attention": "on", "shared_kv": True},
    "split, fused, q8_0": {"kv_type": "q8_0"},
}
_draw = random.Random(1)


def draw_tokens(count: int) -> list[int]:
    return [_draw.randrange(3, 500) for _ in range(count)]


def make_work(slots: Iterable[int], start: int, count: int = 1, wanted_count: int = 1) -> Work:
    """The same amount for each slot."""
    return [SlotWork(slot, start, draw_tokens(count), wanted_count) for slot in slots]


@contextmanager
def opened(
    path: Path, context: int, slot_count: int, ways: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, LlamaBatchBackend]]:
    """A backend for each way, one thread each."""
    backends = {}
    for name, way in ways.items():
        plan = LoadPlan(path, name, "", ModelCard(), context, 1, slot_count, 512, **way)
        backends[name] = LlamaBatchBackend(plan)
    yield backends
    for backend in backends.values():
        backend.close()


def fill(backend: LlamaBatchBackend, slot_count: int, token_count: int) -> None:
    """Puts a prompt into each slot, in pieces of 256."""
    for slot in range(slot_count):
        for place in range(0, token_count, 256):
            backend.step(make_work([slot], place, min(256, token_count - place), 0))


def compute(backend: LlamaBatchBackend, make: Callable[[], Work]) -> None:
    backend.step(make()).best()


def take_turns(actions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of processor time of each, the median of its turns."""
    turns = defaultdict(list)
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.process_time()
            action()
            turns[name].append((time.process_time() - started) * 1e3)
    return {name: median(times) for name, times in turns.items()}


def compare(
    backends: Mapping[str, LlamaBatchBackend], make: Callable[[], Work], repeats: int
) -> dict[str, float]:
    """The same work in every backend."""
    actions = {name: partial(compute, backend, make) for name, backend in backends.items()}
    return take_turns(actions, repeats)


def show_layout(path: Path, repeats: int) -> None:
    """A token for each of N slots that hold so many, by way of keeping and reading them."""
    for slot_count in (1, 4, 8):
        with opened(path, 4_096, slot_count, WAYS) as backends:
            for held in (32, 128, 512, 2_048):
                for backend in backends.values():
                    backend.reset()
                    fill(backend, slot_count, held)
                make = partial(make_work, range(slot_count), held)
                show(f"{slot_count} slots of {held}", compare(backends, make, repeats))


def show_mixed(path: Path, repeats: int) -> None:
    """Steps that are not all decoding: a piece of a prompt beside it, drafts, slots with gaps."""
    for slot_count, held in ((4, 64), (4, 768), (8, 64), (8, 768)):
        ways = {name: way for name, way in WAYS.items() if "kv_type" not in way}
        with opened(path, 2_048, slot_count, ways) as backends:
            for backend in backends.values():
                fill(backend, slot_count, held)
            for name, make in list_mixed_cases(slot_count, held).items():
                times = compare(backends, make, repeats)
                show(f"{slot_count} slots of {held}, {name}", times)


def list_mixed_cases(slot_count: int, held: int) -> dict[str, Callable[[], Work]]:
    slots, last = range(slot_count), slot_count - 1
    return {
        "a token each": partial(make_work, slots, held),
        "64 prompt tokens alone": partial(make_work, [last], held, 64),
        "64 beside a token each": lambda: [
            *make_work(slots[:-1], held),
            *make_work([last], held, 64),
        ],
        "4 drafted each": partial(make_work, slots, held, 5, 5),
        "4 drafted in every other": lambda: [
            one
            for slot in slots
            for one in make_work([slot], held, 1 + 4 * (slot % 2), 1 + 4 * (slot % 2))
        ],
        "every other slot": partial(make_work, slots[1::2], held),
        "the lower half of slots": partial(make_work, slots[: slot_count // 2], held),
    }


def show_drafts(path: Path, repeats: int) -> None:
    """A step with k more tokens for each of N slots, as a multiple of the step without them."""
    held = 256
    with opened(path, 2_048, 8, {"only": {}}) as backends:
        fill(backends["only"], 8, held)
        for slot_count in (1, 2, 4, 8):
            actions = {
                f"k={k}": partial(
                    compute,
                    backends["only"],
                    partial(make_work, range(slot_count), held, 1 + k, 1 + k),
                )
                for k in range(9)
            }
            times = take_turns(actions, repeats)
            ratios = {name: value / times["k=0"] for name, value in times.items()}
            show(f"{slot_count} slots, k=0 is {times['k=0']:.2f} ms; ratios", ratios)


def show_copies(path: Path, repeats: int) -> None:
    """Copying, saving and restoring a slot that holds so many tokens."""
    for name, way in WAYS.items():
        with opened(path, 4_096, 4, {name: way}) as backends:
            backend = backends[name]
            for held in (64, 256, 1_024):
                backend.reset()
                fill(backend, 1, held)
                saved = backend.save(0, held)
                actions: dict[str, Callable[[], object]] = {
                    "copy": partial(backend.copy, 0, 1, held),
                    "copy half": partial(backend.copy, 0, 1, held // 2),
                    "save": partial(backend.save, 0, held),
                    "restore": partial(backend.restore, 2, saved),
                }
                size_mb = saved.size_bytes / 1e6
                times = take_turns(actions, repeats)
                show(f"{name}: {held} tokens, {size_mb:.2f} MB", times)


def show_sampling(folder: Path, repeats: int) -> None:
    """A decoding step with its argmax in numpy, and with llama.cpp's sampler inside its graph."""
    for vocab_size in (8_192, 32_768, 131_072):
        size = Size(512, 6, 1_408, vocab_size)
        path = write_random_gguf(folder / f"vocab-{vocab_size}.gguf", size, weights="q4_0")
        for slot_count in (1, 4, 16):
            with opened(path, 256, slot_count, {"numpy": {}, "in the graph": {}}) as backends:
                inside = backends["in the graph"]
                set_greedy_samplers(inside, slot_count)
                actions = {
                    "numpy": partial(
                        compute, backends["numpy"], partial(make_work, range(slot_count), 0)
                    ),
                    "in the graph": partial(sample_inside, inside, slot_count),
                }
                times = take_turns(actions, repeats)
                show(f"vocabulary of {vocab_size}, {slot_count} rows", times)


def set_greedy_samplers(backend: LlamaBatchBackend, slot_count: int) -> None:
    for slot in range(slot_count):
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
        assert llama.llama_set_sampler(backend._context, slot, chain)


def sample_inside(backend: LlamaBatchBackend, slot_count: int) -> None:
    backend.step(make_work(range(slot_count), 0))
    for row in range(slot_count):
        llama.llama_get_sampled_token_ith(backend._context, row)


def show_share(path: Path, repeats: int) -> None:
    """How much of a decoding step is not llama.cpp's: work as a list, checks, the batch, the best tokens."""
    library_decode = llama.llama_decode
    spent_s = [0.0]

    def timed(context: Any, batch: Any) -> int:
        started = time.process_time()
        code: int = library_decode(context, batch)
        spent_s[0] += time.process_time() - started
        return code

    llama.llama_decode = timed
    for slot_count in (1, 4, 8, 16):
        with opened(path, 512, slot_count, {"only": {}}) as backends:
            backend = backends["only"]
            fill(backend, slot_count, 32)
            step_count, spent_s[0] = 4 * repeats, 0.0
            started = time.process_time()
            for step in range(step_count):
                compute(backend, partial(make_work, range(slot_count), 32 + step))
            step_ms = (time.process_time() - started) * 1e3 / step_count
            ours_ms = step_ms - spent_s[0] * 1e3 / step_count
            percent = 100 * ours_ms / step_ms
            show(f"{slot_count} rows", {"step": step_ms, "ours": ours_ms, "percent": percent})
    llama.llama_decode = library_decode


class _NoPadding(RowPadding):
    def rows_for(self, row_count: int, most_count: int) -> int:
        return row_count


def show_rows(path: Path, repeats: int) -> None:
    """A token for each of N of 16 slots: with the rows of no consequence that the backend adds, and without."""
    with opened(path, 512, 16, {"with added rows": {}, "without": {}}) as backends:
        backends["without"].padding = _NoPadding()
        for backend in backends.values():
            fill(backend, 16, 64)
        for row_count in range(1, 17):
            make = partial(make_work, range(row_count), 64)
            compare(backends, make, 25)  # until it has chosen
            show(f"{row_count} rows", compare(backends, make, repeats))


def show(what: str, values: Mapping[str, float]) -> None:
    print(f"{what:45}", "  ".join(f"{name} {value:7.2f}" for name, value in values.items()))


def main() -> None:
    parts = {
        "layout": show_layout,
        "mixed": show_mixed,
        "drafts": show_drafts,
        "copies": show_copies,
        "share": show_share,
        "rows": show_rows,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*parts, "sampling"])
    parser.add_argument("--weights", choices=list(WEIGHTS), default="q4_0")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.part == "sampling":
        show_sampling(given.folder, given.repeats)
        return
    path = given.folder / f"random-{given.weights}.gguf"
    write_random_gguf(path, Size(), weights=given.weights)
    print(f"{path.name}, one thread")
    parts[given.part](path, given.repeats)


if __name__ == "__main__":
    main()
