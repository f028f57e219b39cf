"""The loop over a backend whose every answer is known: what is said, what it costs, and what a lost step changes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.toy_backend import ToyBackend, toy_answer
from tests.support.toy_loop import ToyLoop

from farthing.inference.batch_backend import SlotLayout
from farthing.inference.core.priority import Priority
from farthing.inference.core.request import FinishReason, TokenEvent
from farthing.inference.core.schedule.scheduler import Rules
from farthing.kit.errors import (
    FarthingError,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)

prompts = st.builds(
    lambda start, rest: start + rest,
    st.sampled_from(["you are a helpful machine that answers briefly. ", "", "hello "]),
    st.text("abc def", min_size=1, max_size=60),
)
requests = st.fixed_dictionaries(
    {
        "prompt": prompts,
        "max_tokens": st.integers(1, 60),
        "priority": st.sampled_from(Priority),
        "tenant_id": st.sampled_from(["a", "b"]),
        "adapter": st.sampled_from(["", "", "shout"]),
    }
)
layouts = st.builds(
    lambda slots, step, shared: SlotLayout(slots, 200, 300 if shared else slots * 200, step, 8),
    st.integers(2, 5),
    st.integers(1, 64),
    st.booleans(),
)
deeds = st.one_of(
    st.tuples(st.just("submit"), requests),
    st.tuples(st.just("step"), st.integers(1, 8)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("lose"), st.none()),
    st.tuples(st.just("refuse"), st.sampled_from(["copy", "save", "restore", "trim"])),
)


@settings(max_examples=250, deadline=None)
@given(layouts, st.sampled_from([0, 3]), st.lists(deeds, max_size=25))
def test_any_mixture_answers_as_each_request_alone_and_every_microsecond_is_paid(
    layout: SlotLayout, draft_count: int, script: list[tuple[str, Any]]
) -> None:
    lab = ToyLoop(ToyBackend(layout), Rules(save_token_capacity=80), draft_count=draft_count)
    asked: dict[int, dict[str, Any]] = {}
    cancelled: set[int] = set()
    for deed, detail in script:
        match deed, detail:
            case "submit", dict() as values:
                asked[lab.submit(**values)] = values
            case "step", int() as count:
                for _ in range(count):
                    lab.loop.step()
            case "cancel", int() as job_id if job_id in asked and lab.heard[job_id].end is None:
                lab.loop.cancel(job_id)
                cancelled.add(job_id)
            case "lose", _:
                lab.backend.fail_steps = {lab.backend.step_count + 1}
            case "refuse", str() as move:
                lab.backend.fail_next = move
    lab.run()
    billed_us = 0
    for job_id, values in asked.items():
        heard = lab.heard[job_id]
        answer = toy_answer(values["prompt"], values["max_tokens"], values["adapter"])
        if isinstance(heard.end, FarthingError):
            assert isinstance(heard.end, Internal)  # in two lost steps
            continue
        billed_us += heard.done.usage.compute_us
        reason = heard.done.finish_reason
        if job_id in cancelled:
            assert reason is FinishReason.CANCELLED
        elif reason is not FinishReason.ERROR:
            assert heard.text == answer
        assert answer.startswith(heard.text)
        assert heard.done.usage.output_token_count == len(heard.text)
        assert heard.done.usage.input_token_count == len(str(values["prompt"]))
    lost = any(isinstance(heard.end, FarthingError) for heard in lab.heard.values())
    assert billed_us == lab.loop.totals.busy_us or lost
    occupancy = lab.loop.occupancy()
    assert (occupancy.kv_token_count, occupancy.saved_token_count) == (0, 0)
    assert not lab.loop._saved


def test_an_answer_is_shared_out_token_by_token_and_ends_with_its_bill() -> None:
    lab = ToyLoop()
    lab.submit("hello", 5)
    lab.run()
    events = lab.heard[0].events
    assert [e.token_count for e in events if isinstance(e, TokenEvent)] == [1] * 5
    usage = lab.heard[0].done.usage
    assert (usage.input_token_count, usage.output_token_count) == (5, 5)
    assert usage.prefill_us > 0 and usage.decode_us > 0
    assert usage.peak_kv_bytes == (5 + 4) * 8
    assert usage.request_bytes == 5 and usage.response_bytes == 5


def test_a_reused_beginning_is_told_and_costs_less() -> None:
    lab = ToyLoop()
    prompt = "a long instruction that comes before every question there is. "
    lab.submit(prompt + "one", 3)
    lab.run()
    lab.submit(prompt + "two", 3)
    lab.run()
    assert lab.heard[0].done.usage.cached_input_token_count == 0
    assert lab.heard[1].done.usage.cached_input_token_count == 48
    assert lab.heard[1].text == toy_answer(prompt + "two", 3)


def test_waiting_is_told_apart_from_computing() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    lab.submit("first", 10)
    lab.submit("second", 10)
    lab.run()
    assert lab.heard[1].done.usage.queue_us > lab.heard[0].done.usage.compute_us
    assert lab.heard[0].done.usage.queue_us < lab.heard[1].done.usage.queue_us


def test_a_limit_of_device_time_ends_the_answer_before_it_is_passed() -> None:
    lab = ToyLoop()
    for _ in range(3):  # so that the loop knows what steps take
        lab.submit("hello", 20)
        lab.run()
    whole_us = lab.heard[2].done.usage.compute_us
    limited = lab.submit("hello", 20, compute_limit_us=whole_us // 2)
    lab.run()
    done = lab.heard[limited].done
    assert done.finish_reason is FinishReason.BUDGET
    assert done.usage.compute_us <= whole_us // 2
    assert 0 < done.usage.output_token_count < 20
    assert toy_answer("hello", 20).startswith(lab.heard[limited].text)


def test_stop_texts_end_answers_across_tokens_and_are_not_shown() -> None:
    whole = toy_answer("hello", 40)
    stop = whole[10:13]
    lab = ToyLoop()
    lab.submit("hello", 40, stop=(stop,))
    lab.run()
    assert lab.heard[0].text == whole[: whole.find(stop)]
    assert lab.heard[0].done.finish_reason is FinishReason.STOP


def test_a_seed_draws_the_same_answer_whoever_else_is_in_the_step() -> None:
    sampling = {"temperature": 1.0, "seed": 7, "top_p": 0.9}
    alone = ToyLoop()
    alone.submit("hello", 40, sampling=sampling)
    alone.run()
    crowd = ToyLoop(draft_count=3)
    for number in range(3):
        crowd.submit(f"other {number}", 30, sampling={"temperature": 1.0})
    crowd.loop.step()
    job_id = crowd.submit("hello", 40, sampling=sampling)
    crowd.run()
    assert crowd.heard[job_id].text == alone.heard[0].text
    assert alone.heard[0].text != toy_answer("hello", 40)


def test_sampled_answers_are_distributed_as_the_model_says() -> None:
    from tests.support.toy_backend import toy_logits

    lab = ToyLoop(ToyBackend(SlotLayout(8, 200, 1_600, 64, 8)), Rules(queue_capacity=3_000))
    draws = 2_000
    for seed in range(draws):
        lab.submit("what?", 1, sampling={"temperature": 1.0, "seed": seed})
    lab.run()
    counts = Counter(heard.text for heard in lab.heard.values())
    logits = toy_logits(list(b"what?")).astype(float)
    shares = {chr(t): math.exp(v) for t, v in enumerate(logits) if v > -10 and t < 256}
    total = sum(shares.values())
    statistic = sum(
        (counts[letter] - draws * share / total) ** 2 / (draws * share / total)
        for letter, share in shares.items()
    )
    # Chi-square, 12 degrees of freedom: above 38 once in ten thousand times.
    assert len(shares) == 13 and statistic < 38


def test_a_bias_a_constraint_and_logprobs_look_at_the_logits() -> None:
    lab = ToyLoop()
    biased = lab.submit("hello", 10, sampling={"logit_bias": {ord("z"): 100.0}})
    vowels = lab.submit("hello", 10, json_schema="{}")
    likely = lab.submit("hello", 3, logprobs=True, top_logprobs=2)
    lab.run()
    assert lab.heard[biased].text == "z" * 10
    assert set(lab.heard[vowels].text) <= set("eaoiu") and len(lab.heard[vowels].text) == 10
    tokens = [
        one for e in lab.heard[likely].events if isinstance(e, TokenEvent) for one in e.logprobs
    ]
    assert "".join(one.token for one in tokens) == toy_answer("hello", 3)
    assert all(one.top[0].token == one.token and one.logprob < 0 for one in tokens)


def test_guesses_change_nothing_but_the_number_of_steps() -> None:
    prompt = "etaoin " * 12
    plain, guessing = ToyLoop(), ToyLoop(draft_count=6)
    for lab in (plain, guessing):
        lab.submit(prompt, 80)
        lab.run()
    assert plain.heard[0].text == guessing.heard[0].text
    assert guessing.loop.totals.guessed_count > 0
    assert guessing.backend.step_count <= plain.backend.step_count


def test_a_step_that_is_lost_once_is_computed_again() -> None:
    lab = ToyLoop()
    lab.submit("hello", 10)
    lab.loop.step()
    lab.backend.fail_steps = {lab.backend.step_count + 2}
    lab.run()
    assert lab.heard[0].text == toy_answer("hello", 10)
    assert lab.loop.totals.lost_step_count == 1


@pytest.mark.parametrize(("move", "lost_count"), [("save", 0), ("restore", 1)])
def test_a_move_that_fails_is_nobodys_fault_and_costs_no_second_step(
    move: str, lost_count: int
) -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    lab.submit("x" * 40, 50, priority=Priority.BATCH)
    for _ in range(5):
        lab.loop.step()
    lab.submit("first", 20, priority=Priority.INTERACTIVE)
    lab.backend.fail_next = move
    lab.run()
    assert lab.heard[0].text == toy_answer("x" * 40, 50)
    assert lab.heard[1].text == toy_answer("first", 20)
    assert lab.backend.fail_next == ""
    assert (lab.loop.totals.pause_count, lab.loop.totals.lost_step_count) == (1, lost_count)
    assert lab.loop.occupancy().saved_token_count == 0


def test_a_request_that_loses_its_steps_fails_and_the_others_go_on() -> None:
    lab = ToyLoop()
    good = lab.submit("hello", 30)
    lab.loop.step()
    bad = lab.submit("PLEASE FAIL", 10)
    lab.run()
    assert isinstance(lab.heard[bad].end, Internal)
    assert lab.heard[good].text == toy_answer("hello", 30)


def test_a_cancelled_request_is_gone_by_the_next_step() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    first, second = lab.submit("first", 100), lab.submit("second", 3)
    lab.loop.step()
    lab.loop.cancel(first)
    lab.loop.step()
    assert lab.heard[first].done.finish_reason is FinishReason.CANCELLED
    assert lab.heard[second].events
    lab.run()
    assert lab.heard[second].text == toy_answer("second", 3)


def test_a_paused_request_that_is_cancelled_leaves_nothing_behind() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    low = lab.submit("x" * 40, 50, priority=Priority.BATCH)
    for _ in range(5):
        lab.loop.step()
    lab.submit("first", 50, priority=Priority.INTERACTIVE)
    lab.loop.step()
    assert list(lab.loop._saved) == [low]
    lab.loop.cancel(low)
    assert not lab.loop._saved
    lab.run()


def test_a_full_line_refuses_with_a_time_to_try_again() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)), Rules(queue_capacity=1))
    lab.submit("first", 50)
    lab.loop.step()
    lab.submit("second", 5, priority=Priority.BATCH)
    third = lab.submit("third", 5)
    fourth = lab.submit("fourth", 5)
    lab.run()
    displaced, refused = lab.heard[1].end, lab.heard[fourth].end
    assert isinstance(displaced, ResourceExhausted) and displaced.retry_after_ms > 0
    assert isinstance(refused, ResourceExhausted) and refused.reason == "QUEUE_FULL"
    assert lab.heard[third].text == toy_answer("third", 5)


def test_who_waits_too_long_is_told_so() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)), queue_timeout_us=500)
    lab.submit("first", 90)
    lab.loop.step()
    late = lab.submit("second", 5)
    lab.run()
    error = lab.heard[late].end
    assert isinstance(error, ResourceExhausted) and error.reason == "QUEUE_TIMEOUT"


def test_aborting_ends_all_with_the_error_or_with_what_they_have_shown() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    begun, waiting = lab.submit("first", 50), lab.submit("second", 5)
    lab.loop.step()
    lab.loop.step()
    lab.loop.abort(Internal("over", reason="OVER"))
    assert lab.heard[begun].done.finish_reason is FinishReason.ERROR
    assert isinstance(lab.heard[waiting].end, Internal)
    assert lab.loop.is_idle


def test_what_cannot_be_prepared_is_refused_by_name() -> None:
    lab = ToyLoop()
    with pytest.raises(InvalidArgument) as too_long:
        lab.submit("x" * 500)
    assert too_long.value.reason == "CONTEXT_EXCEEDED"
    with pytest.raises(NotFound):
        lab.submit("x", adapter="whisper")
    with pytest.raises(InvalidArgument):
        lab.submit("x", json_schema="wrong")


def test_a_context_is_what_a_slot_holds() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(2, 100, 150, 64, 8)))
    lab.submit("x" * 60, 40)
    with pytest.raises(InvalidArgument):
        lab.submit("x" * 60, 41)
    lab.run()
    assert lab.heard[0].done.usage.output_token_count > 0


def test_warming_up_leaves_nothing_behind_and_knows_what_steps_take() -> None:
    lab = ToyLoop()
    lab.loop.warm_up()
    assert lab.loop.weights.predict_us.__self__.step_us > 0  # type: ignore[attr-defined]
    assert not any(lab.backend.slots)
    lab.submit("hello", 5)
    lab.run()
    assert lab.heard[0].text == toy_answer("hello", 5)


def test_a_row_that_its_limit_ends_as_it_comes_back_loses_no_step() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 200, 200, 64, 8)))
    limited = lab.submit("x" * 40, 50, priority=Priority.BATCH, compute_limit_us=2_000)
    for _ in range(4):
        lab.loop.step()
    lab.submit("first", 50, priority=Priority.INTERACTIVE)
    lab.us_per_reading = (
        5_000  # the machine has become slower: one more step is beyond the limit
    )
    lab.run()
    assert lab.loop.totals.pause_count == 1
    assert lab.heard[limited].done.finish_reason is FinishReason.BUDGET
    assert lab.loop.totals.lost_step_count == 0
    again = lab.submit("x" * 40, 20)
    lab.run()
    assert lab.heard[again].text == toy_answer("x" * 40, 20)
