"""How large a context is: slots, tokens, and what llama.cpp makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.edge.plan import LoadPlan

_CELLS_PER_PIECE = 256  # llama.cpp makes room for tokens in pieces of so many


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What a context is opened for. `cell_count` is how many tokens llama.cpp makes room for."""

    slot_count: int
    slot_token_capacity: int
    token_capacity: int
    step_token_capacity: int
    cell_count: int
    is_shared: bool

    @property
    def reach_cell_count(self) -> int:
        """Cells that one token may have to look at."""
        return self.cell_count if self.is_shared else self.cell_count // self.slot_count


def shape_context(plan: LoadPlan, train_context_length: int) -> ContextShape:
    """The plan, cut to what the model was trained for and rounded up as llama.cpp does it."""
    slot_tokens = min(plan.context_length, train_context_length)
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
        step_token_capacity=max(plan.slot_count, min(plan.step_token_capacity, cells)),
        cell_count=cells,
        is_shared=plan.shared_kv,
    )


def _round_up(token_count: int) -> int:
    return -(-token_count // _CELLS_PER_PIECE) * _CELLS_PER_PIECE
