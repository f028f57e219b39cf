"""From a model's graph to its slot form, proven to answer as the original does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from farthing.cloud.graph import native
from farthing.cloud.graph.cores import Core, find_cores
from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.graph.integer_weights import unite_integer_products
from farthing.cloud.graph.normalise import normalised
from farthing.cloud.graph.probes import Attention, Rotation, RotationProbe, probe_attention
from farthing.cloud.graph.prove import Witness, call_witness, hold_to, mixes
from farthing.cloud.graph.slot_graph import declare, give_slots, head_input, want_tokens
from farthing.cloud.graph.trial import Heads
from farthing.cloud.graph.weights import link_external, move_out
from farthing.inference.store.onnx_signature import DecoderSignature

GRAPH_NAME = "graph.onnx"
_LARGEST_HEAD = 1024
_MOST_HEADS = 4096
_LONGEST_CONTEXT = 1 << 21


@dataclass(frozen=True, slots=True)
class SlotGraph:
    """A graph in slot form, in its folder, and what is known of it.

    A slot may hold `position_count` tokens. `can_mix`: its mixed variant answers alike. `how` tells what was done, for
    the log.
    """

    folder: Path
    layers: int
    kv_heads: int
    head_dimension: int
    dtype: str
    has_position_ids: bool
    vocab_size: int
    position_count: int
    can_mix: bool
    how: str


def convert(
    source: Path, folder: Path, signature: DecoderSignature, context_length: int
) -> SlotGraph:
    """Writes the slot form of the graph `source` into the empty `folder`.

    NotConvertible tells why it cannot be done, or that the result did not answer as the original.
    """
    _check_sizes(signature, context_length)
    document = _read(source, folder)
    integer_count = unite_integer_products(document)
    if integer_count:
        document.prune()
        move_out(document.weights.values(), folder)
    if native.is_native(document):
        result = _take_native(document, signature, context_length)
    else:
        result = _rewrite(document, signature, context_length)
    if integer_count:
        result.how += f"; {integer_count} int8 products scaled by row"
    move_out(result.document.weights.values(), folder)
    onnx.save(result.document.to_model(), str(folder / GRAPH_NAME))
    cache = signature.cache[0]
    return SlotGraph(
        folder=folder,
        layers=len(signature.cache) // 2,
        kv_heads=cache.head_count,
        head_dimension=cache.head_dimension,
        dtype=cache.dtype,
        has_position_ids="position_ids" in result.document.inputs,
        vocab_size=result.witness.vocab_size,
        position_count=result.position_count,
        can_mix=mixes(result.witness, result.document, signature, result.heads),
        how=result.how,
    )


@dataclass(slots=True)
class _Result:
    document: Document
    witness: Witness
    heads: Heads
    position_count: int
    how: str


def _check_sizes(signature: DecoderSignature, context_length: int) -> None:
    kinds = {(c.head_count, c.head_dimension, c.dtype) for c in signature.cache}
    if len(kinds) != 1:
        raise NotConvertible("layers differ in their heads")
    count, dimension, _ = kinds.pop()
    if count > _MOST_HEADS or dimension > _LARGEST_HEAD or dimension % 8:
        raise NotConvertible(
            f"{count} heads of size {dimension}; the library takes multiples of 8 up to {_LARGEST_HEAD}"
        )
    if not 2 <= context_length <= _LONGEST_CONTEXT:
        raise NotConvertible(f"a context of {context_length} tokens")
    layers = range((len(signature.cache) + 1) // 2)
    names = [f"past_key_values.{n}.{part}" for n in layers for part in ("key", "value")]
    if [c.past_name for c in signature.cache] != names:
        raise NotConvertible("the layers of the cache are not numbered one by one from 0 on")


def _read(source: Path, folder: Path) -> Document:
    try:
        model = onnx.load(str(source), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise NotConvertible(f"{source.name} cannot be parsed: {error}") from error
    link_external(model.graph.initializer, source.parent, folder)
    move_out(model.graph.initializer, folder)
    return normalised(model, folder)


def _take_native(
    document: Document, signature: DecoderSignature, context_length: int
) -> _Result:
    cache = signature.cache[0]
    hidden = head_input(document)
    witness = call_witness(document, signature, [hidden], ())
    head_count, position_count = native.take_over(document, signature)
    heads = Heads(head_count, cache.head_count, cache.head_dimension, cache.dtype)
    want_tokens(document, hidden, witness.shapes[hidden][-1])
    declare(document, signature, heads)
    hold_to(witness, document, signature, heads)
    limit = min(context_length, position_count or context_length)
    return _Result(document, witness, heads, limit, "its own grouped attention, over slots")


def _rewrite(document: Document, signature: DecoderSignature, context_length: int) -> _Result:
    cores = find_cores(document, len(signature.cache) // 2)
    hidden = head_input(document)
    watched = [hidden, *(n for core in cores for n in (*core.queries, *core.results))]
    cache = signature.cache[0]
    sizes = (cache.head_count, cache.head_dimension)
    witness = call_witness(document, signature, watched, sizes)
    query_shape, queries, results = _by_shape(cores, witness, cache.head_dimension)
    heads = Heads(query_shape, cache.head_count, cache.head_dimension, cache.dtype)
    attentions = [
        probe_attention(
            document,
            signature,
            core,
            heads,
            query=query,
            result=result,
            context_length=context_length,
        )
        for core, query, result in zip(cores, queries, results, strict=True)
    ]
    original = document.to_model().SerializeToString()
    finding = ""
    for rotation in _rotations(document, signature, cores, queries, heads, context_length):
        if isinstance(rotation, NotConvertible):
            finding = str(rotation)
            continue
        document = Document(onnx.ModelProto.FromString(original), document.folder)
        try:
            give_slots(document, cores, attentions, heads, rotation)
            want_tokens(document, hidden, witness.shapes[hidden][-1])
            declare(document, signature, heads)
            hold_to(witness, document, signature, heads)
        except NotConvertible as error:
            finding = str(error)
            continue
        what = "grouped attention with its rotation" if rotation else "grouped attention"
        how = f"{what}, over slots" + (f" ({finding})" if finding else "")
        return _Result(document, witness, heads, context_length, how)
    raise NotConvertible(finding)


def _rotations(
    document: Document,
    signature: DecoderSignature,
    cores: list[Core],
    queries: list[str],
    heads: Heads,
    context_length: int,
) -> Iterator[Rotation | NotConvertible | None]:
    """The rotation to build in, or why there is none; then None, for leaving it where it is."""
    try:
        yield RotationProbe(document, signature, cores, queries, heads).rotation(context_length)
    except NotConvertible as error:
        yield error
    yield None


def _by_shape(
    cores: list[Core], witness: Witness, dimension: int
) -> tuple[int, list[str], list[str]]:
    """The heads of queries, and of each layer the query and the result, told by their shapes."""
    queries, results, counts = [], [], set[int]()
    for core in cores:
        for name in core.queries:
            shape = witness.shapes[name]
            if len(shape) == 4 and shape[0] == 2 and shape[2:] == (witness.count, dimension):
                queries.append(name)
                counts.add(shape[1])
                break
        else:
            raise NotConvertible(f"layer {core.layer} has no query of the usual shape")
        width = counts and max(counts) * dimension
        for name in core.results:
            if witness.shapes[name] == (2, witness.count, width):
                results.append(name)
                break
        else:
            raise NotConvertible(f"layer {core.layer} joins its heads in an unknown way")
    if len(counts) != 1:
        raise NotConvertible(f"layers with {sorted(counts)} query heads")
    return counts.pop(), queries, results


__all__ = ["GRAPH_NAME", "Attention", "SlotGraph", "convert"]
