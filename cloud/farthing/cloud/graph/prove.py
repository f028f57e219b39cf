"""Records how a graph answers before it is rewritten, and holds the rewritten one to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.graph.names import LENGTHS, TOTAL, WANTED
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
    tolerance = heads.tolerance
    if any(node.op_type in _ROUNDED_PRODUCTS for node in document.nodes):
        tolerance = max(tolerance, _ROUNDED_TOLERANCE)
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
