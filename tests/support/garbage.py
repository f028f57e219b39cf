"""What only the garbage collector can free: objects that refer to each other in a circle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_garbage() -> Iterator[list[object]]:
    """The list is filled, when the block ends, with what was left in circles since it began."""
    left: list[object] = []
    while gc.collect():  # what goes may leave others without their last user
        pass
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def kinds_of(objects: list[object], *, within: str) -> set[str]:
    """Names of the types that a package defines."""
    kinds = {type(one) for one in objects}
    return {kind.__qualname__ for kind in kinds if kind.__module__.startswith(within)}
