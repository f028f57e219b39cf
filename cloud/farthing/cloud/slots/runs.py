"""Runs of the library over neighbouring rows, with everything that stays the same kept bound from step to step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from farthing.cloud.core.rows import Window
from farthing.cloud.graph.names import (
    HAS_BESIDE,
    LENGTHS,
    SHAPE,
    TOKEN_COUNTS,
    TOTAL,
    WANTED,
    beside,
)
from farthing.cloud.slots.memory import Array, Feed, LogitsArena, SlotMemory

_KEPT_BINDINGS = 96
_NO_ROWS = Window(0, 0)


@dataclass(frozen=True, slots=True)
class GraphForm:
    """What a graph in slot form takes: `position_ids` where it rotates by itself, two groups of rows when mixed."""

    has_position_ids: bool
    is_mixed: bool


class Group(NamedTuple):
    """What the rows of a window compute: `tokens` [row][any] behind the first `starts` [row] tokens of each."""

    window: Window
    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the most tokens of any."""
        return self.window.row_count, max(map(len, self.tokens))


class Run:
    """A window of rows, in the mixed form also a second one. Binding a cache costs 4 calls for each layer, so it is
    done once.

    `number` is this run's alone: what is recorded of it may not be played for a later run at other addresses.
    """

    def __init__(
        self,
        session: Any,
        memory: SlotMemory,
        windows: Sequence[Window],
        form: GraphForm,
        *,
        number: int,
    ) -> None:
        self.number = number
        self._session, self._memory, self._form = session, memory, form
        self._binding = session.io_binding()
        self._row_counts = [window.row_count for window in windows]
        self._groups = [_GroupFeeds(memory, self._binding, windows[0], form, second=False)]
        if form.is_mixed:
            second = windows[1] if len(windows) > 1 else _NO_ROWS
            self._groups.append(_GroupFeeds(memory, self._binding, second, form, second=True))
            self._has_beside = self._feed(HAS_BESIDE, (), np.bool_, on_host=True)
            self._has_beside.values[...] = second.row_count > 0
            self._has_beside.push()
            self._token_counts = self._feed(TOKEN_COUNTS, (2,), np.int64, on_host=True)
        self._shapes: tuple[tuple[int, int], ...] = ()
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
        groups: Sequence[Group],
        wanted: Sequence[int],
        arena: LogitsArena,
        arena_first: int,
        options: Any,
    ) -> None:
        """Appends tokens to the rows of this run's windows.

        `wanted` are places in the first group's rows × count tokens, and then in the second's.
        """
        tokens = self._places(tuple(group.shape for group in groups)).values.reshape(-1)
        positions = None if self._positions is None else self._positions.values.reshape(-1)
        first = 0
        for group, feeds in zip(groups, self._groups, strict=False):
            rows, count = group.shape
            part = slice(first, first + rows * count)
            feeds.fill(
                group,
                tokens[part].reshape(rows, count),
                None if positions is None else positions[part].reshape(rows, count),
            )
            first += rows * count
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
        """One token for each row of a run with one window; logits go to the arena's first rows.

        `fixed_total` stands for the longest row's length where that may not change from run to run. This is the path
        that decides what Python costs, so it writes into the inputs element by element, with no array in between.
        """
        place = self._places(((self._row_counts[0], 1),)).view
        lengths = self._groups[0].lengths.view
        for row, token in enumerate(tokens):
            place[row] = token
            lengths[row] = starts[row]
        if self._positions is not None:
            positions = self._positions.view
            for row, start in enumerate(starts):
                positions[row] = start
        self._groups[0].total.view[0] = fixed_total or max(starts) + 1
        self._run(wanted, arena, 0, options)

    def _run(
        self, wanted: Sequence[int], arena: LogitsArena, arena_first: int, options: Any
    ) -> None:
        for feed in (self._tokens, self._positions):
            if feed is not None:
                feed.push()
        for group in self._groups:
            group.push()
        self._want(wanted)
        bound = (arena_first, arena, len(wanted))
        if bound != self._bound:
            arena.bind(self._binding, arena_first, len(wanted))
            self._bound = bound
        self._session.run_with_iobinding(self._binding, options)

    def _places(self, shapes: tuple[tuple[int, int], ...]) -> Feed:
        """Room for the tokens of groups of these rows × counts."""
        if self._tokens is None or self._shapes != shapes:
            size = shapes[0]
            if self._form.is_mixed:
                counts = [rows * count for rows, count in shapes]
                size = (1, sum(counts))
                self._token_counts.values[:] = [*counts, 0][:2]
                self._token_counts.push()
                for group, shape in zip(self._groups, shapes, strict=False):
                    group.set_shape(shape)
            self._tokens = self._feed("input_ids", size, np.int64)
            if self._form.has_position_ids:
                self._positions = self._feed("position_ids", size, np.int64)
            self._shapes = shapes
        return self._tokens

    def _want(self, wanted: Sequence[int]) -> None:
        if wanted == self._last_wanted:
            return
        if self._wanted is None or len(self._wanted.values) != len(wanted):
            self._wanted = self._feed(WANTED, (len(wanted),), np.int64)
        self._wanted.values[:] = wanted
        self._wanted.push()
        self._last_wanted = list(wanted)


class _GroupFeeds:
    """The inputs that one group of rows has to itself."""

    def __init__(
        self, memory: SlotMemory, binding: Any, window: Window, form: GraphForm, *, second: bool
    ) -> None:
        def feed(name: str, values: Array, *, on_host: bool = False) -> Feed:
            own = beside(name) if second else name
            return memory.feed(binding, own, values, on_host=on_host)

        memory.bind(binding, window.first, window.row_count, second=second)
        self.lengths = feed(LENGTHS, np.zeros(window.row_count, np.int32))
        self.total = feed(TOTAL, np.zeros((), np.int32), on_host=True)
        if form.is_mixed:
            self._shape = feed(SHAPE, np.full(3, -1, np.int64), on_host=True)

    def set_shape(self, shape: tuple[int, int]) -> None:
        """How the group's tokens lie in a row, in the mixed form."""
        self._shape.values[:2] = shape
        self._shape.push()

    def fill(self, group: Group, tokens: Array, positions: Array | None) -> None:
        """Writes the group's tokens, padded with zeros, and their positions into views [rows, count]."""
        count = tokens.shape[1]
        for row, values in enumerate(group.tokens):
            tokens[row, : len(values)] = values
            tokens[row, len(values) :] = 0
        if positions is not None:
            np.add(np.array(group.starts)[:, None], np.arange(count), out=positions)
        lengths = self.lengths.values
        lengths[:] = group.starts
        lengths += np.array([len(values) for values in group.tokens], np.int32) - 1
        self.total.values[...] = lengths.max() + 1

    def push(self) -> None:
        """Brings the values to where the run reads them."""
        self.lengths.push()
        self.total.push()


class Runs:
    """The runs that were used last, by their windows."""

    def __init__(self, session: Any, memory: SlotMemory, form: GraphForm) -> None:
        self._session, self._memory, self.form = session, memory, form
        self._kept: OrderedDict[tuple[Window, ...], Run] = OrderedDict()
        self._made_count = 0

    def over(self, *windows: Window) -> Run:
        """The run of a window, or of two."""
        run = self._kept.get(windows)
        if run is None:
            self._made_count += 1
            run = self._kept[windows] = Run(
                self._session, self._memory, windows, self.form, number=self._made_count
            )
            if len(self._kept) > _KEPT_BINDINGS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(windows)
        return run

    def clear(self) -> None:
        """Forgets all of them."""
        self._kept.clear()
