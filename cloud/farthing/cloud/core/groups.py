"""Which work of a step is computed in one run of the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farthing.inference.batch_backend import SlotWork

# Prompts of one run are padded to the longest; beyond this share of padding a run of its own costs less.
_MOST_PADDING_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Groups:
    """Indices into the step's work. Each of `prompts` starts empty slots together; each of `chunks` goes on alone."""

    singles: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    chunks: tuple[int, ...]


def group_work(work: Sequence[SlotWork]) -> Groups:
    """Single tokens go together; so do prompts of about one length; more tokens behind others go one by one.

    That several rows take several tokens each is something the library's attention does for empty slots only.
    """
    singles = tuple(n for n, one in enumerate(work) if len(one.tokens) == 1)
    if len(singles) == len(work):
        return Groups(singles, (), ())
    fresh = [n for n, one in enumerate(work) if one.start == 0 and len(one.tokens) > 1]
    chunks = tuple(n for n, one in enumerate(work) if one.start > 0 and len(one.tokens) > 1)
    prompts: list[list[int]] = []
    for n in sorted(fresh, key=lambda n: -len(work[n].tokens)):
        least = (1 - _MOST_PADDING_RATIO) * len(work[prompts[-1][0]].tokens) if prompts else 0
        if prompts and len(work[n].tokens) >= least:
            prompts[-1].append(n)
        else:
            prompts.append([n])
    return Groups(singles, tuple(tuple(group) for group in prompts), chunks)
