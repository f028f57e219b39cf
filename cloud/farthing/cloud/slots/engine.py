"""Computes the work of a step over slots: places rows, forms runs, and knows where each wanted token's logits are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farthing.cloud.core.groups import Groups, group_work
from farthing.cloud.core.rows import Move, Rows, Window
from farthing.cloud.slots.likeliest import check_row, check_tokens
from farthing.cloud.slots.memory import Array, LogitsArena, SlotMemory
from farthing.cloud.slots.options import StepOptions
from farthing.cloud.slots.runs import GraphForm, Group, Runs
from farthing.inference.batch_backend import Logits, SlotWork


class SlotOutput:
    """Implements StepOutput. `places` are rows of the arena in the order of the work, a range when that is theirs."""

    def __init__(self, arena: LogitsArena, places: Sequence[int], used_count: int) -> None:
        self._arena, self._places, self._used_count = arena, places, used_count
        self._in_order = isinstance(places, range)

    @property
    def row_count(self) -> int:
        """See StepOutput."""
        return len(self._places)

    def best(self) -> NDArray[np.int64]:
        """See StepOutput."""
        found = self._arena.best(self._used_count)
        return check_tokens(found if self._in_order else found[self._places])

    def row(self, index: int) -> Logits:
        """See StepOutput."""
        return check_row(self._arena.row(self._places[index]))


@dataclass(frozen=True, slots=True)
class SavedRow:
    """Implements SavedSlot."""

    values: Array

    @property
    def token_count(self) -> int:
        """See SavedSlot."""
        return int(self.values.shape[2])

    @property
    def size_bytes(self) -> int:
        """See SavedSlot."""
        return int(self.values.nbytes)


class _Singles(NamedTuple):
    """A token for each of some `work`: the window of rows, `places` in it, and of each row its token and its start."""

    work: Sequence[int]
    window: Window
    places: list[int]
    tokens: list[int]
    starts: list[int]

    @property
    def is_full(self) -> bool:
        """Whether no row in the window is without work."""
        return len(self.places) == self.window.row_count

    def as_group(self, ends: Mapping[int, int]) -> Group:
        """The same beside other rows, which write up to these `ends`: one in the window that does writes behind it."""
        first = self.window.first
        starts = [max(start, ends.get(first + n, 0)) for n, start in enumerate(self.starts)]
        return Group(self.window, [[token] for token in self.tokens], starts)


class SlotEngine:
    """Slots over a graph in slot form. One thread."""

    def __init__(
        self,
        session: Any,
        memory: SlotMemory,
        rows: Rows,
        *,
        vocab_size: int,
        form: GraphForm,
    ) -> None:
        self._memory, self._rows = memory, rows
        self._is_mixed = form.is_mixed
        self._runs = Runs(session, memory, form)
        self._vocab_size = vocab_size
        self._arena = memory.arena(2 * rows.row_count, vocab_size)
        self._gathered: tuple[list[int], int, Window, list[int]] | None = None

    @property
    def token_bytes(self) -> int:
        """Keys and values of a token in all layers."""
        return self._memory.shape.token_bytes

    def step(self, work: Sequence[SlotWork], options: StepOptions) -> SlotOutput:
        """Computes all work. Raises whatever the library raises; then slots are undefined."""
        groups = group_work(work)
        # A run has at least one wanted token, asked for or not.
        most = sum([one.wanted_count for one in work]) + len(work)
        if most > self._arena.capacity:
            self._runs.clear()
            self._arena = self._memory.arena(most, self._vocab_size)
        for n in groups.singles:
            if work[n].start == 0:
                self._rows.renew([work[n].slot])
        for group in groups.prompts:
            self._rows.release([work[n].slot for n in group])
        # Single tokens first, so that their logits always lie in the same place.
        used, found = len(groups.singles), {n: at for at, n in enumerate(groups.singles)}
        singles = self._place_singles(work, groups.singles) if groups.singles else None
        if singles is not None and (used == len(work) or not self._is_mixed):
            self._run_singles(singles, options)
            self._hold(work, groups.singles)
            if used == len(work) == most - len(work):
                return SlotOutput(self._arena, range(used), used)
            singles = None
        for part in self._parts(work, groups):
            used = self._run_rows(work, part, found, used, options, singles)
            singles = None
        places = [
            place
            for n, one in enumerate(work)
            for place in range(found[n], found[n] + one.wanted_count)
        ]
        return SlotOutput(self._arena, places, used)

    def trim(self, slot: int, token_count: int) -> None:
        """See BatchBackend. What lies behind is written over."""
        self._rows.set_held(slot, token_count)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See BatchBackend."""
        if source == target:
            self._rows.set_held(target, token_count)
            return
        self._rows.renew([target])
        self._memory.copy(self._rows.row_of(source), self._rows.row_of(target), token_count)
        self._rows.set_held(target, token_count)

    def save(self, slot: int, token_count: int) -> SavedRow:
        """See BatchBackend."""
        return SavedRow(self._memory.save(self._rows.row_of(slot), token_count))

    def restore(self, slot: int, saved: SavedRow) -> None:
        """See BatchBackend."""
        self._rows.renew([slot])
        self._memory.restore(self._rows.row_of(slot), saved.values)
        self._rows.set_held(slot, saved.token_count)

    @property
    def held(self) -> Sequence[int]:
        """Tokens that each slot holds."""
        return self._rows.held

    def reset(self) -> None:
        """Empties every slot."""
        self._rows.clear()
        self._runs.clear()

    def _parts(self, work: Sequence[SlotWork], groups: Groups) -> list[tuple[int, ...]]:
        """All but the single tokens, as it is computed together; prompts get their rows."""
        parts: list[tuple[int, ...]] = []
        busy = {one.slot for one in work}
        for group in groups.prompts:
            self._move(self._rows.renew([work[n].slot for n in group], busy=busy))
            parts += self._neighbours(work, group)
        return [*parts, *((n,) for n in groups.chunks)]

    def _neighbours(
        self, work: Sequence[SlotWork], group: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """The group in parts whose rows follow one another."""
        parts: list[list[int]] = []
        last = -2
        for n in group:
            row = self._rows.row_of(work[n].slot)
            if row != last + 1:
                parts.append([])
            parts[-1].append(n)
            last = row
        return [tuple(part) for part in parts]

    def _run_rows(
        self,
        work: Sequence[SlotWork],
        part: Sequence[int],
        found: dict[int, int],
        used: int,
        options: StepOptions,
        singles: _Singles | None,
    ) -> int:
        """Prompts or a chunk in rows that follow one another; `found` gets the first arena row of each.

        `singles` are computed in the same run; their logits go to the arena's first rows.
        """
        first = self._rows.row_of(work[part[0]].slot)
        window, count = Window(first, len(part)), max(len(work[n].tokens) for n in part)
        groups = [Group(window, [work[n].tokens for n in part], [work[n].start for n in part])]
        wanted: list[int] = []
        before = arena_first = 0
        if singles is None:
            arena_first = used
        else:
            ends = {first + at: start + count for at, start in enumerate(groups[0].starts)}
            groups.insert(0, singles.as_group(ends))
            wanted.extend(singles.places)
            before = singles.window.row_count
        for at, n in enumerate(part):
            found[n] = arena_first + len(wanted)
            end = before + at * count + len(work[n].tokens)
            wanted.extend(range(end - max(1, work[n].wanted_count), end))
        self._runs.over(*(group.window for group in groups)).execute(
            groups, wanted, self._arena, arena_first, options.plain()
        )
        self._hold(work, part)
        if singles is not None:
            self._hold(work, singles.work)
        return arena_first + len(wanted)

    def _place_singles(self, work: Sequence[SlotWork], singles: Sequence[int]) -> _Singles:
        """Brings the slots of these together, and says who computes what where."""
        window, places = self._gather([work[n].slot for n in singles])
        is_full = len(places) == window.row_count
        if is_full:
            tokens, starts = [0] * len(places), [0] * len(places)
        else:  # a row between them that has no work writes behind its own end
            tokens = [0] * window.row_count
            starts = [self._rows.held_in(window.first + n) for n in range(window.row_count)]
        for place, n in zip(places, singles, strict=True):
            one = work[n]
            tokens[place], starts[place] = one.tokens[0], one.start
        return _Singles(singles, window, places, tokens, starts)

    def _run_singles(self, singles: _Singles, options: StepOptions) -> None:
        """A run of these alone, whose logits go to the arena's first rows in this order."""
        run = self._runs.over(singles.window)
        records = singles.is_full and options.records_graphs
        run.execute_singles(
            singles.tokens,
            singles.starts,
            singles.places,
            self._arena,
            options.decoding(run.number) if records else options.plain(),
            fixed_total=self._memory.shape.tokens if records else 0,
        )

    def _gather(self, slots: list[int]) -> tuple[Window, list[int]]:
        """The window of these slots, and the place of each in it. Most steps have the slots of the one before."""
        if self._gathered is not None:
            before, version, window, places = self._gathered
            is_full = len(places) == window.row_count
            if is_full and version == self._rows.version and before == slots:
                return window, places
        window, moves = self._rows.gather(slots)
        self._move(moves)
        places = [self._rows.row_of(slot) - window.first for slot in slots]
        self._gathered = (slots, self._rows.version, window, places)
        return window, places

    def _move(self, moves: Sequence[Move]) -> None:
        for move in moves:
            self._memory.copy(move.source, move.target, move.token_count)

    def _hold(self, work: Sequence[SlotWork], done: Sequence[int]) -> None:
        for n in done:
            one = work[n]
            self._rows.set_held(one.slot, one.start + len(one.tokens))
