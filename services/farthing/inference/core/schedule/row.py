"""A sequence under way, as the scheduler keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.core.priority import Priority


@dataclass(eq=False, slots=True)
class Row:
    """`token_count` tokens are known, prompt and answer; the slot holds the first `held_count` of them.

    `filled_count` is what it really has in it: guesses that were wrong lie behind until they are written over.
    All but the last known token held: the next step computes that one and draws the next. `saved_count` tokens of a
    paused row are in host memory, 0 when it will be computed again. `rank` is the class at which it got its slot.
    """

    row_id: int
    tenant_id: str
    priority: Priority
    adapter: str
    prompt_count: int
    token_limit: int
    arrival_us: int
    deadline_us: int
    chain: list[bytes]
    token_count: int
    waiting_since_us: int
    slot: int = -1
    held_count: int = 0
    filled_count: int = 0
    saved_count: int = 0
    draft_count: int = 0
    rank: int = 0
    began: bool = False
    paused: bool = False
    slot_turn: int = 0
    last_step: int = 0

    @property
    def pending_count(self) -> int:
        """Known tokens that the slot does not hold yet; at least 1."""
        return self.token_count - self.held_count

    @property
    def is_decoding(self) -> bool:
        """Whether a step of one token draws the next one."""
        return self.pending_count == 1

    @property
    def most_count(self) -> int:
        """Tokens that the slot may have to hold in the end."""
        return self.prompt_count + self.token_limit

    @property
    def left_count(self) -> int:
        """Tokens that may still be generated."""
        return self.most_count - self.token_count
