"""Records how a graph answers before it is rewritten, and holds the rewritten one to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.graph.mixed import mix
from farthing.cloud.graph.names import (
    HAS_BESIDE,
    LENGTHS,
    SHAPE,
    TOKEN_COUNTS,
    TOTAL,
    WANTED,
    beside,
)
from farthing.cloud.graph.trial import Array, Call, Heads, Trial, relative_error
from farthing.inference.store.onnx_signature import DecoderSignature

_SLOT_TOKENS = 32
_ROUNDED_PRODUCTS = frozenset({"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"})
# Kernels that round activations to 8 bits answer a little differently for other batch sizes.
_ROUNDED_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True)
class Witness:
    """The logits of two random sequences, [2, count, vocabulary], and the shapes of tensors on the way."""

    tokens: Array
    logits: Array
    shapes: dict[str, tuple[int, ...]]

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return int(self.logits.shape[2])

    @property
    def count(self) -> int:
        """Tokens of each sequence."""
        return int(self.tokens.shape[1])


def call_witness(
    document: Document,
    signature: DecoderSignature,
    watched: Iterable[str],
    avoid: Sequence[int],
) -> Witness:
    """Runs the document as it is. `avoid` are sizes that the sequences' length must not be taken for."""
    count = next(n for n in (11, 13, 17, 19, 23) if n not in avoid)
    vocab_size = signature.vocab_size or 64
    tokens = np.random.default_rng(5).integers(0, vocab_size, (2, count), np.int64)
    names = ["logits", *(name for name in dict.fromkeys(watched) if name != "logits")]
    model = document.to_model()
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    trial = Trial(model, document)
    values = trial.run(Call(count, 0, 2).feeds(trial.input_names, signature, tokens))
    logits = values[0]
    if logits.ndim != 3 or logits.shape[:2] != (2, count) or not np.isfinite(logits).all():
        raise NotConvertible(
            f"logits of shape {logits.shape}, or with values that are no numbers"
        )
    return Witness(tokens, logits, {n: v.shape for n, v in zip(names, values, strict=True)})


def hold_to(
    witness: Witness, document: Document, signature: DecoderSignature, heads: Heads
) -> None:
    """Runs the slot form on the same tokens: two ragged prompts, a chunk behind one, then one token of each.

    NotConvertible when an answer differs by more than rounding.
    """
    slots = _Slots(document, signature, heads)
    count = witness.count
    short = count // 2
    tokens, expected = witness.tokens, witness.logits
    prompts = tokens.copy()
    prompts[1, short:] = 0
    places = [*range(count), *range(count, count + short)]
    chunk = slice(short, short + 3)
    steps = (
        ("ragged prompts", slots.run(0, prompts, [count, short], places),
         np.concatenate([expected[0], expected[1, :short]])),
        ("a chunk behind a prompt", slots.run(1, tokens[1:, chunk], [short + 3], [0, 1, 2]),
         expected[1, chunk]),
        ("a token for each", slots.run(0, np.array([[tokens[0, 7]], [tokens[1, short + 3]]]),
                                       [8, short + 4], [0, 1]),
         np.stack([expected[0, 7], expected[1, short + 3]])),
    )  # fmt: skip
    _compare(document, heads, steps)


def mixes(
    witness: Witness, document: Document, signature: DecoderSignature, heads: Heads
) -> bool:
    """Whether the mixed variant of the slot form answers alike: a prompt, then a token behind it beside another one."""
    variant = Document(document.to_model(), document.folder)
    short = witness.count // 2
    tokens, expected = witness.tokens, witness.logits
    try:
        mix(variant)
        slots = _Slots(variant, signature, heads)
        found_alone = slots.run_mixed(tokens[:1, :short], short, None, range(short))
        found = slots.run_mixed(
            tokens[:1, short : short + 1], short + 1, tokens[1:], range(1 + witness.count)
        )
        _compare(
            variant,
            heads,
            (
                ("a prompt", found_alone, expected[0, :short]),
                (
                    "a token beside a prompt",
                    found,
                    np.concatenate([expected[0, short : short + 1], expected[1]]),
                ),
            ),
        )
    except NotConvertible:
        return False
    return True


def _compare(
    document: Document, heads: Heads, steps: Iterable[tuple[str, Array, Array]]
) -> None:
    tolerance = heads.tolerance
    if any(node.op_type in _ROUNDED_PRODUCTS for node in document.nodes):
        tolerance = max(tolerance, _ROUNDED_TOLERANCE)
    for name, found, wanted in steps:
        error = relative_error(found, wanted)
        if error > tolerance:
            raise NotConvertible(f"{name}: the rewritten graph is off by {error:.2g}")


class _Slots:
    """Two slots in host memory."""

    def __init__(self, document: Document, signature: DecoderSignature, heads: Heads) -> None:
        self._trial = Trial(document.to_model(), document)
        shape = (2, heads.key_count, _SLOT_TOKENS, heads.dimension)
        self._cache = {
            (tensor.past_name, tensor.present_name): np.zeros(shape, heads.dtype)
            for tensor in signature.cache
        }

    def run_mixed(
        self, tokens: Array, held: int, prompt: Array | None, wanted: Iterable[int]
    ) -> Array:
        """`tokens` [1, count] into the first slot, which then holds so many, beside `prompt` into the second."""
        count, prompt_count = tokens.size, 0 if prompt is None else prompt.size
        both = tokens if prompt is None else np.concatenate([tokens, prompt], axis=1)
        places = [*range(held - count, held), *range(prompt_count)]
        rows = min(1, prompt_count)
        feeds: dict[str, Array] = {
            "input_ids": np.ascontiguousarray(both, np.int64),
            "position_ids": np.array([places], np.int64),
            LENGTHS: np.array([held - 1], np.int32),
            TOTAL: np.array(held, np.int32),
            SHAPE: np.array([1, count, -1], np.int64),
            beside(LENGTHS): np.full(rows, prompt_count - 1, np.int32),
            beside(TOTAL): np.array(prompt_count, np.int32),
            beside(SHAPE): np.array([rows, prompt_count, -1], np.int64),
            TOKEN_COUNTS: np.array([count, prompt_count], np.int64),
            HAS_BESIDE: np.array(rows > 0),
            WANTED: np.array(list(wanted), np.int64),
        }
        slots = {names: cache[:1] for names, cache in self._cache.items()}
        slots |= {
            (beside(past), beside(present)): cache[1 : 1 + rows]
            for (past, present), cache in self._cache.items()
        }
        return self._trial.run_in_place(feeds, slots)

    def run(self, first: int, tokens: Array, held: list[int], wanted: list[int]) -> Array:
        """`tokens` [rows, count] into the slots from `first` on, which then hold so many tokens."""
        rows, count = tokens.shape
        feeds = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            "position_ids": _positions(held, count),
            LENGTHS: np.array(held, np.int32) - 1,
            TOTAL: np.array(max(held), np.int32),
            WANTED: np.array(wanted, np.int64),
        }
        slots = {names: cache[first : first + rows] for names, cache in self._cache.items()}
        return self._trial.run_in_place(feeds, slots)


def _positions(held: list[int], count: int) -> Array:
    """A padded prompt starts at 0; whatever else comes, its last token is the last one held."""
    starts = [max(0, total - count) for total in held]
    return np.array([[start + place for place in range(count)] for start in starts], np.int64)
