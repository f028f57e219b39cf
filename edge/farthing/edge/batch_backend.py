"""The llama.cpp backend for many sequences in one step, on the library's low-level interface. Imports llama_cpp."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama

from farthing.edge.adapters import AdapterSet
from farthing.edge.codec import LlamaCodec
from farthing.edge.context import open_context
from farthing.edge.llama_log import LibraryLog
from farthing.edge.llama_model import LlamaModel
from farthing.edge.memory_need import check_memory
from farthing.edge.plan import LoadPlan
from farthing.edge.row_padding import RowPadding
from farthing.edge.saved_slot import LlamaSavedSlot
from farthing.edge.shape import shape_context
from farthing.edge.slots import Slots
from farthing.edge.step_output import LlamaStepOutput, LogitRows
from farthing.edge.stop_flag import StopFlag
from farthing.edge.thread_choice import ThreadChoice
from farthing.edge.token_batch import TokenBatch
from farthing.inference.batch_backend import Interrupted, SavedSlot, SlotLayout, SlotWork
from farthing.inference.model import Capability, ModelDescription
from farthing.kit.errors import Internal

# Results of llama_decode.
_NO_ROOM, _ABORTED = 1, 2


class LlamaBatchBackend:
    """Implements BatchBackend.

    `codec` and `weights` serve beside it and may outlive it. `weights_bytes` and `kv_bytes` are
    the memory of the weights and of the state of all slots, used or not.
    """

    def __init__(self, plan: LoadPlan) -> None:
        """Loads the model. Raises FailedPrecondition when llama.cpp cannot, or when it needs more than the limit."""
        if plan.memory_limit_bytes:
            check_memory(plan)
        self._log = LibraryLog()
        self._stop_flag = StopFlag()
        self.weights = LlamaModel(plan.path, self._log)
        self.codec = LlamaCodec(self.weights, plan.name)
        self._adapters = AdapterSet(self.weights, plan.adapters)
        self._shape = shape_context(plan, self.weights.train_context_length, platform.machine())
        self.model = self._describe(plan)
        self._batch = TokenBatch(self._shape.step_token_capacity)
        self.padding = RowPadding()
        self.threads = ThreadChoice(plan.thread_count)
        self._thread_count = plan.thread_count  # as the context has it
        # A row added to a step is cut off again, and must not take the room of others.
        self._may_pad = not (
            self._shape.is_shared
            or self.weights.window_token_count
            or self.weights.has_recurrent_state
        )
        self.weights_bytes = self.weights.size_bytes
        self._context: Any = open_context(self.weights, self._shape, plan, self._stop_flag)
        try:
            self._rows = LogitRows(self._context, self.model.vocab_size)
            self._slots = Slots(
                self._context,
                self._compute,
                slot_count=self._shape.slot_count,
                is_shared=self._shape.is_shared,
                window_token_count=self.weights.window_token_count,
                is_recurrent=self.weights.has_recurrent_state,
            )
            self.layout = self._measure_layout()
        except BaseException:
            self.close()
            raise

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> LlamaStepOutput:
        """See BatchBackend."""
        if self._stop_flag.is_raised:
            raise Interrupted
        if self._rows.is_spoiled:
            raise _bad_work("the model's last output was not numbers; a reset must come first")
        self._check(work, adapter)
        for one in work:
            if self._slots.held_count(one.slot) > one.start:
                self._slots.cut(one.slot, one.start)
        return self._run(work, adapter, self._added(work))

    def trim(self, slot: int, token_count: int) -> None:
        """See BatchBackend."""
        self._slots.cut(slot, token_count)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See BatchBackend."""
        self._slots.copy(source, target, token_count)

    def save(self, slot: int, token_count: int) -> LlamaSavedSlot:
        """See BatchBackend."""
        return self._slots.save(slot, token_count)

    def restore(self, slot: int, saved: SavedSlot) -> None:
        """See BatchBackend."""
        assert isinstance(saved, LlamaSavedSlot)
        self._slots.restore(slot, saved)

    def reset(self) -> None:
        """See BatchBackend."""
        self._stop_flag.lower()
        self._slots.reset(wipe=self._rows.is_spoiled)
        self._rows.is_spoiled = False

    def interrupt(self) -> None:
        """See BatchBackend."""
        self._stop_flag.raise_()

    def close(self) -> None:
        """See BatchBackend."""
        if self._context:
            llama.llama_free(self._context)
            self._context = None
            del self.weights, self.codec

    def _added(self, work: Sequence[SlotWork]) -> list[SlotWork] | None:
        """Rows of no consequence, in the slots behind the last, with which the step is computed sooner.

        None when the step is of another kind: only next tokens, in slots without a gap between them, are.
        """
        count, last = len(work), work[-1].slot
        if not self._may_pad or last - work[0].slot >= count:
            return None
        for one in work:
            if len(one.tokens) != 1 or not one.wanted_count:
                return None
        row_count = self.padding.rows_for(count, count + self._shape.slot_count - 1 - last)
        held_count, capacity = self._slots.held_count, self._shape.slot_token_capacity
        behind = range(last + 1, last + 1 + row_count - count)
        if any(held_count(slot) >= capacity for slot in behind):
            return None
        return [SlotWork(slot, held_count(slot), [0], 1) for slot in behind]

    def _run(
        self, work: Sequence[SlotWork], adapter: str, added: Sequence[SlotWork] | None = None
    ) -> LlamaStepOutput:
        self._adapters.use(self._context, adapter)
        row_count = self._batch.fill([*work, *added] if added else work) - len(added or ())
        self._log.forget()
        token_count = self._batch.handle.n_tokens
        thread_count = self.threads.count_for(token_count)
        if thread_count != self._thread_count:
            llama.llama_set_n_threads(self._context, thread_count, thread_count)
            self._thread_count = thread_count
        started_ns = time.perf_counter_ns()
        code = llama.llama_decode(self._context, self._batch.handle)
        duration_ns = time.perf_counter_ns() - started_ns
        if code == _ABORTED:
            raise Interrupted
        if code != 0:
            cause = self._log.last_error()
            if code == _NO_ROOM:
                cause = cause or "the slots hold more than there is room for"
            raise Internal(
                f"llama.cpp could not compute a step (code {code}): {cause or 'no reason given'}",
                reason="ENGINE_STEP_FAILED",
                metadata={"code": str(code), "cause": cause},
            )
        self._slots.append(work, adapter)
        if added is not None:
            for one in added:
                self._slots.cut_added(one.slot)
            if not self.threads.is_trying:
                self.padding.note(len(work), len(work) + len(added), duration_ns)
        self.threads.note(token_count, thread_count, duration_ns)
        return LlamaStepOutput(self._rows, row_count)

    def _compute(self, slot: int, tokens: Sequence[int], adapter: str) -> None:
        """Puts tokens into an empty slot and asks for no logits."""
        size = self._shape.step_token_capacity
        for place in range(0, len(tokens), size):
            self._run([SlotWork(slot, place, tokens[place : place + size], 0)], adapter)

    def _check(self, work: Sequence[SlotWork], adapter: str) -> None:
        """What llama.cpp would end the process for, or compute wrongly without a word."""
        last, total, shape, slots = -1, 0, self._shape, self._slots
        for one in work:
            slot, start, count = one.slot, one.start, len(one.tokens)
            if not last < slot < shape.slot_count:
                raise _bad_work(f"slot {slot} follows slot {last} of {shape.slot_count}")
            if not 0 <= one.wanted_count <= count or not count:
                raise _bad_work(f"slot {slot}: {one.wanted_count} rows of {count} tokens")
            if not 0 <= start <= slots.held_count(slot):
                raise _bad_work(
                    f"slot {slot} holds {slots.held_count(slot)} tokens, fewer than {start}"
                )
            if start + count > shape.slot_token_capacity:
                raise _bad_work(f"slot {slot} would hold {start + count} tokens")
            if start and slots.adapter(slot) != adapter:
                raise _bad_work(
                    f"slot {slot} was computed with adapter {slots.adapter(slot)!r}"
                )
            last = slot
            total += count
        if not 1 <= total <= shape.step_token_capacity:
            raise _bad_work(f"{total} tokens; a step takes 1..{shape.step_token_capacity}")

    def _describe(self, plan: LoadPlan) -> ModelDescription:
        codec = self.codec
        capabilities = {Capability.JSON_SCHEMA, Capability.LOGPROBS}
        if codec.has_chat_template:
            capabilities.add(Capability.CHAT)
        return ModelDescription(
            name=plan.name,
            digest=plan.digest,
            format="gguf",
            quantization=self.weights.quantization,
            parameter_count=self.weights.parameter_count,
            context_length=self._shape.slot_token_capacity,
            vocab_size=codec.vocab_size,
            bos_ids=codec.bos_ids,
            eos_ids=codec.eos_ids,
            capabilities=frozenset(capabilities),
            adapters=self._adapters.names,
            qualities=plan.card.qualities,
            bytes_per_token=plan.card.bytes_per_token,
        )

    def _measure_layout(self) -> SlotLayout:
        """Computes two tokens: the state's growth is a token's size, and the first request finds warm pages."""
        shape, weights = self._shape, self.weights
        self._run([SlotWork(0, 0, [0], 0)], "")
        first_bytes = self._slots.state_bytes(0)
        self._run([SlotWork(0, 1, [0], 0)], "")
        growth_bytes = self._slots.state_bytes(0) - first_bytes
        self._slots.reset(wipe=False)
        token_bytes = growth_bytes - weights.cell_header_bytes if growth_bytes else 0
        self.kv_bytes = shape.cell_count * token_bytes
        if weights.has_recurrent_state:
            self.kv_bytes += shape.slot_count * (first_bytes - growth_bytes)
        return SlotLayout(
            slot_count=shape.slot_count,
            slot_token_capacity=shape.slot_token_capacity,
            token_capacity=shape.token_capacity,
            step_token_capacity=shape.step_token_capacity,
            token_bytes=token_bytes,
            cuts_freely=not weights.has_recurrent_state,
        )


def _bad_work(finding: str) -> Internal:
    """Work that breaks the contract; nothing was computed."""
    return Internal(
        f"A step cannot be computed: {finding}.",
        reason="ENGINE_STEP_FAILED",
        metadata={"cause": finding},
    )
