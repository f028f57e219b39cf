"""What every BatchBackend keeps to, whatever library is behind it. Subclass it and give it the `backend` fixture.

The reference is the backend itself with one slot in use and one token a step after a prompt in one piece: that the
library computes the right numbers is shown elsewhere, against PyTorch.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from farthing.inference.batch_backend import BatchBackend, Interrupted, SlotWork
from farthing.kit.errors import FarthingError

ANSWER_COUNT = 12


class BatchBackendContract:
    """Needs a module- or class-scoped fixture `backend` (4 slots or more, 96 tokens a slot or more), which is reset
    before each test. `prompts` may be overridden with texts that the model has an opinion on.
    """

    @pytest.fixture
    def whole(self, backend: BatchBackend) -> Iterator[BatchBackend]:
        backend.reset()
        yield backend
        backend.reset()

    @pytest.fixture
    def prompts(self, whole: BatchBackend) -> list[list[int]]:
        drawn, usable = random.Random(7), _usable(whole)
        return [[drawn.choice(usable) for _ in range(length)] for length in (5, 17, 33, 9)]

    @pytest.fixture
    def expected(self, whole: BatchBackend, prompts: list[list[int]]) -> list[list[int]]:
        answers = [answer_alone(whole, prompt) for prompt in prompts]
        whole.reset()
        return answers

    def test_slots_computed_together_answer_as_each_alone(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        tokens = prefill_all(whole, prompts)
        answers = [[token] for token in tokens]
        for _ in range(ANSWER_COUNT - 1):
            work = [
                SlotWork(slot, len(prompts[slot]) + len(answer) - 1, answer[-1:])
                for slot, answer in enumerate(answers)
            ]
            for answer, token in zip(answers, whole.step(work).best(), strict=True):
                answer.append(int(token))
        assert answers == expected

    @pytest.mark.parametrize("chunk", [1, 3, 8])
    def test_a_prompt_in_pieces_beside_others_answers_as_in_one(
        self,
        whole: BatchBackend,
        prompts: list[list[int]],
        expected: list[list[int]],
        chunk: int,
    ) -> None:
        other = prompts[0]
        (held,) = whole.step([SlotWork(0, 0, other)]).best()
        other_answer, prompt, place = [int(held)], prompts[2], 0
        while place < len(prompt):
            part = prompt[place : place + chunk]
            last = place + len(part) == len(prompt)
            output = whole.step(
                [
                    SlotWork(0, len(other) + len(other_answer) - 1, other_answer[-1:]),
                    SlotWork(2, place, part, wanted_count=int(last)),
                ]
            )
            assert output.row_count == 1 + last
            other_answer.append(int(output.best()[0]))
            place += len(part)
        assert int(output.best()[1]) == expected[2][0]
        assert other_answer[:ANSWER_COUNT] == expected[0][: len(other_answer)]

    def test_a_slot_is_cut_back_to_where_the_work_starts(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        prompt = prompts[1]
        whole.step([SlotWork(1, 0, [*prompt, *reversed(prompt)])])
        (token,) = whole.step([SlotWork(1, len(prompt) - 1, prompt[-1:])]).best()
        assert int(token) == expected[1][0]
        assert go_on(whole, 1, prompt, [int(token)]) == expected[1]

    def test_a_copied_prefix_goes_on_as_the_original_and_leaves_it_alone(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        prompt = prompts[2]
        whole.step([SlotWork(0, 0, [*prompt, 1, 2, 3])])
        whole.copy(0, 3, len(prompt) - 1)
        (token,) = whole.step([SlotWork(3, len(prompt) - 1, prompt[-1:])]).best()
        assert go_on(whole, 3, prompt, [int(token)]) == expected[2]
        (again,) = whole.step([SlotWork(0, len(prompt) - 1, prompt[-1:])]).best()
        assert go_on(whole, 0, prompt, [int(again)]) == expected[2]

    def test_a_copy_takes_the_place_of_what_the_slot_held(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        whole.step([SlotWork(1, 0, prompts[2])])
        whole.step([SlotWork(0, 0, prompts[1])])
        whole.copy(0, 1, len(prompts[1]) - 1)
        (token,) = whole.step([SlotWork(1, len(prompts[1]) - 1, prompts[1][-1:])]).best()
        assert go_on(whole, 1, prompts[1], [int(token)]) == expected[1]

    def test_a_saved_slot_goes_on_in_another_one_while_its_own_is_used(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        prompt, other = prompts[2], prompts[1]
        (token,) = whole.step([SlotWork(0, 0, prompt)]).best()
        answer = go_on(whole, 0, prompt, [int(token)], count=5)
        saved = whole.save(0, len(prompt) + 4)
        assert saved.token_count == len(prompt) + 4
        assert saved.size_bytes >= saved.token_count * whole.layout.token_bytes // 2
        (used,) = whole.step([SlotWork(0, 0, other)]).best()
        whole.restore(2, saved)
        assert go_on(whole, 2, prompt, answer) == expected[2]
        assert go_on(whole, 0, other, [int(used)]) == expected[1]

    def test_logits_after_each_of_several_tokens_are_those_of_one_at_a_time(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        prompt, answer = prompts[2], expected[2]
        whole.step([SlotWork(1, 0, prompt)])
        output = whole.step([SlotWork(1, len(prompt), answer[:6], wanted_count=6)])
        assert [int(token) for token in output.best()] == answer[1:7]
        # And the part that was not accepted is forgotten by going on from before it.
        output = whole.step([SlotWork(1, len(prompt) + 2, answer[2:3])])
        assert int(output.best()[0]) == answer[3]

    def test_rows_are_copies_that_agree_with_the_best(
        self, whole: BatchBackend, prompts: list[list[int]]
    ) -> None:
        work = [SlotWork(slot, 0, prompt, slot % 2) for slot, prompt in enumerate(prompts)]
        output = whole.step(work)
        assert output.row_count == 2
        for index, token in enumerate(output.best()):
            row = output.row(index)
            assert row.dtype == np.float32 and row.shape == (whole.model.vocab_size,)
            assert int(row.argmax()) == int(token)
            row[:] = 0
            assert int(output.row(index).argmax()) == int(token)

    @pytest.mark.parametrize("seed", range(12))
    def test_any_order_of_joining_and_leaving_answers_as_each_alone(
        self,
        whole: BatchBackend,
        prompts: list[list[int]],
        expected: list[list[int]],
        seed: int,
    ) -> None:
        drawn = random.Random(seed)
        waiting = [*range(len(prompts))] * 2
        drawn.shuffle(waiting)
        free, live = list(range(whole.layout.slot_count)), dict[int, tuple[int, list[int]]]()
        while waiting or live:
            work = []
            for slot, (number, answer) in sorted(live.items()):
                if drawn.random() < 0.8:
                    start = len(prompts[number]) + len(answer) - 1
                    work.append(SlotWork(slot, start, answer[-1:]))
            if waiting and free and (drawn.random() < 0.5 or not work):
                slot = free.pop(drawn.randrange(len(free)))
                number = waiting.pop()
                live[slot] = (number, [])
                work.append(SlotWork(slot, 0, prompts[number]))
                work.sort(key=lambda one: one.slot)
            if not work:
                continue
            for one, token in zip(work, whole.step(work).best(), strict=True):
                number, answer = live[one.slot]
                answer.append(int(token))
                if len(answer) == ANSWER_COUNT or drawn.random() < 0.05:
                    assert answer == expected[number][: len(answer)]
                    del live[one.slot]
                    free.append(one.slot)

    def test_an_interrupted_step_says_so_and_a_reset_makes_it_whole(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        whole.interrupt()
        with pytest.raises((Interrupted, FarthingError)):
            whole.step([SlotWork(0, 0, prompts[0])])
        whole.reset()
        assert answer_alone(whole, prompts[0]) == expected[0]

    def test_interrupt_may_come_from_another_thread_at_any_time(
        self, whole: BatchBackend, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        stopper = threading.Timer(0.02, whole.interrupt)
        stopper.start()
        try:
            while True:
                whole.step([SlotWork(0, 0, prompts[2])])
        except Interrupted:
            pass
        finally:
            stopper.join()
        whole.reset()
        assert answer_alone(whole, prompts[1]) == expected[1]


def _usable(backend: BatchBackend) -> list[int]:
    model = backend.model
    return [token for token in range(model.vocab_size) if token not in model.eos_ids]


def prefill_all(backend: BatchBackend, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Every prompt into the slot of its number, in one step."""
    work = [SlotWork(slot, 0, prompt) for slot, prompt in enumerate(prompts)]
    return [int(token) for token in backend.step(work).best()]


def go_on(
    backend: BatchBackend,
    slot: int,
    prompt: Sequence[int],
    answer: list[int],
    count: int = ANSWER_COUNT,
) -> list[int]:
    """Decodes greedily, a token a step, until the answer has `count` tokens."""
    answer = list(answer)
    while len(answer) < count:
        output = backend.step([SlotWork(slot, len(prompt) + len(answer) - 1, answer[-1:])])
        answer.append(int(output.best()[0]))
    return answer


def answer_alone(backend: BatchBackend, prompt: Sequence[int]) -> list[int]:
    """The reference: one slot, the prompt in one piece, then a token a step."""
    (token,) = backend.step([SlotWork(0, 0, prompt)]).best()
    return go_on(backend, 0, prompt, [int(token)])
