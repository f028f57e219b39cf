"""Runs of the library over neighbouring rows, with everything that stays the same kept bound from step to step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from farthing.cloud.core.rows import Window
from farthing.cloud.graph.names import LENGTHS, TOTAL, WANTED
from farthing.cloud.slots.memory import Feed, LogitsArena, SlotMemory

_KEPT_BINDINGS = 96


class Run:
    """A window of rows. Binding the cache costs 4 calls for each layer, so it is done once.

    `number` is this run's alone: what is recorded of it may not be played for a later run at other addresses.
    """

    def __init__(
        self,
        session: Any,
        memory: SlotMemory,
        window: Window,
        *,
        number: int,
        has_position_ids: bool,
    ) -> None:
        self.number = number
        self._memory, self._window = memory, window
        self._binding = session.io_binding()
        self._session = session
        self._has_position_ids = has_position_ids
        memory.bind(self._binding, window.first, window.row_count)
        self._lengths = self._feed(LENGTHS, (window.row_count,), np.int32)
        self._total = self._feed(TOTAL, (), np.int32, on_host=True)
        self._tokens: Feed | None = None
        self._positions: Feed | None = None
        self._wanted: Feed | None = None
        self._last_wanted: Sequence[int] = ()
        self._bound: tuple[int, LogitsArena, int] | None = None

    def _feed(
        self, name: str, shape: tuple[int, ...], kind: Any, *, on_host: bool = False
    ) -> Feed:
        return self._memory.feed(self._binding, name, np.zeros(shape, kind), on_host=on_host)

    def execute(
        self,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        wanted: Sequence[int],
        arena: LogitsArena,
        arena_first: int,
        options: Any,
    ) -> None:
        """Appends `tokens` [row][any] behind the first `starts` [row] tokens of the window's rows.

        `wanted` are places in rows × count, where count is the most tokens of any row.
        """
        counts = [len(row) for row in tokens]
        place = self._places(max(counts))
        for row, values in enumerate(tokens):
            place.values[row, : counts[row]] = values
            place.values[row, counts[row] :] = 0
        lengths = self._lengths.values
        if self._positions is not None:
            np.add(
                np.array(starts)[:, None], np.arange(max(counts)), out=self._positions.values
            )
        lengths[:] = starts
        lengths += np.array(counts, np.int32) - 1
        self._total.values[...] = lengths.max() + 1
        self._run(wanted, arena, arena_first, options)

    def execute_singles(
        self,
        tokens: Sequence[int],
        starts: Sequence[int],
        wanted: Sequence[int],
        arena: LogitsArena,
        options: Any,
        *,
        fixed_total: int = 0,
    ) -> None:
        """One token for each row; logits go to the arena's first rows.

        `fixed_total` stands for the longest row's length where that may not change from run to run. This is the path
        that decides what Python costs, so it writes into the inputs element by element, with no array in between.
        """
        place, lengths = self._places(1).view, self._lengths.view
        for row, token in enumerate(tokens):
            place[row] = token
            lengths[row] = starts[row]
        if self._positions is not None:
            positions = self._positions.view
            for row, start in enumerate(starts):
                positions[row] = start
        self._total.view[0] = fixed_total or max(starts) + 1
        self._run(wanted, arena, 0, options)

    def _run(
        self, wanted: Sequence[int], arena: LogitsArena, arena_first: int, options: Any
    ) -> None:
        for feed in (self._tokens, self._positions, self._lengths, self._total):
            if feed is not None:
                feed.push()
        self._want(wanted)
        bound = (arena_first, arena, len(wanted))
        if bound != self._bound:
            arena.bind(self._binding, arena_first, len(wanted))
            self._bound = bound
        self._session.run_with_iobinding(self._binding, options)

    def _places(self, count: int) -> Feed:
        shape = (self._window.row_count, count)
        if self._tokens is None or self._tokens.values.shape != shape:
            self._tokens = self._feed("input_ids", shape, np.int64)
            if self._has_position_ids:
                self._positions = self._feed("position_ids", shape, np.int64)
        return self._tokens

    def _want(self, wanted: Sequence[int]) -> None:
        if wanted == self._last_wanted:
            return
        if self._wanted is None or len(self._wanted.values) != len(wanted):
            self._wanted = self._feed(WANTED, (len(wanted),), np.int64)
        self._wanted.values[:] = wanted
        self._wanted.push()
        self._last_wanted = list(wanted)


class Runs:
    """The runs that were used last, by their windows."""

    def __init__(self, session: Any, memory: SlotMemory, *, has_position_ids: bool) -> None:
        self._session, self._memory = session, memory
        self._has_position_ids = has_position_ids
        self._kept: OrderedDict[Window, Run] = OrderedDict()
        self._made_count = 0

    def over(self, window: Window) -> Run:
        """The run of a window."""
        run = self._kept.get(window)
        if run is None:
            self._made_count += 1
            run = self._kept[window] = Run(
                self._session,
                self._memory,
                window,
                number=self._made_count,
                has_position_ids=self._has_position_ids,
            )
            if len(self._kept) > _KEPT_BINDINGS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(window)
        return run

    def clear(self) -> None:
        """Forgets all of them."""
        self._kept.clear()
