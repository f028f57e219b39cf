"""How large a context is and how it attends: slots, tokens, and what llama.cpp makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.edge.plan import Choice, LoadPlan

_CELLS_PER_PIECE = 256  # llama.cpp makes room for tokens in pieces of so many
# Up to here fused attention was as fast or faster on x86; decision 16 has the figures.
_SHORT_SLOT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What a context is opened for. `cell_count` is how many tokens llama.cpp makes room for."""

    slot_count: int
    slot_token_capacity: int
    token_capacity: int
    step_token_capacity: int
    cell_count: int
    is_shared: bool
    flash_attention: Choice

    @property
    def reach_cell_count(self) -> int:
        """Cells that one token may have to look at."""
        return self.cell_count if self.is_shared else self.cell_count // self.slot_count


def shape_context(plan: LoadPlan, train_context_length: int, machine: str) -> ContextShape:
    """The plan, cut to what the model was trained for and rounded up as llama.cpp does it.

    `machine` is the processor's family as `platform.machine()` names it.
    """
    # A file may say 0, which is no length at all.
    slot_tokens = min(plan.context_length, train_context_length or plan.context_length)
    if plan.shared_kv:
        tokens = plan.pool_token_capacity or plan.slot_count * slot_tokens
        cells = _round_up(tokens)
        slot_tokens = min(slot_tokens, tokens)
    else:
        tokens = plan.slot_count * slot_tokens
        cells = plan.slot_count * _round_up(slot_tokens)
    return ContextShape(
        slot_count=plan.slot_count,
        slot_token_capacity=slot_tokens,
        token_capacity=tokens,
        # llama.cpp ends the process when a step takes fewer tokens than it has sequences, and
        # it has one more than slots when they share.
        step_token_capacity=max(plan.slot_count + 1, min(plan.step_token_capacity, cells)),
        cell_count=cells,
        is_shared=plan.shared_kv,
        flash_attention=choose_attention(plan, slot_tokens, machine),
    )


def choose_attention(plan: LoadPlan, slot_tokens: int, machine: str) -> Choice:
    """What is asked for, or what measured faster; with "auto" the library chooses, mostly fused attention."""
    if plan.kv_type != "f16":
        return "on"  # only fused attention reads quantized values
    long_slots = not plan.shared_kv and slot_tokens > _SHORT_SLOT_TOKENS
    if plan.flash_attention == "auto" and long_slots and machine in ("x86_64", "AMD64"):
        return "off"
    return plan.flash_attention


def _round_up(token_count: int) -> int:
    return -(-token_count // _CELLS_PER_PIECE) * _CELLS_PER_PIECE
