"""Asks a graph what its attention computes: scale, mask, window, rotation - by numbers, not by how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from farthing.cloud.graph.cores import Core
from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.graph.trial import Array, Call, Heads, Trial, relative_error
from farthing.inference.store.onnx_signature import DecoderSignature

# Keys that one look at the window may hold in memory, and how far it looks at most.
_WINDOW_PROBE_BYTES = 64 << 20
_WINDOW_PROBE_TOKENS = 8192
_TABLE_BLOCK_TOKENS = 1024
# Rounding moves shares more when scores are large: float16 holds a score of 200 to within 0.06.
_SHARP_SCORE, _SHARP_TOLERANCE = 200.0, 0.25

_Mix = Callable[[Call, Array, Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Attention:
    """What one layer's attention is. `window` 0: every token sees all before it; else the last so many."""

    query: str
    result: str
    scale: float
    window: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of every position, [positions, head / 2]; pairs are neighbours when `interleaved`."""

    cosines: Array
    sines: Array
    interleaved: bool


def probe_attention(
    document: Document,
    signature: DecoderSignature,
    core: Core,
    heads: Heads,
    *,
    query: str,
    result: str,
    context_length: int,
) -> Attention:
    """Scale and window of a layer. NotConvertible when it is anything but causal attention over grouped heads."""
    cuts = {name: heads.element_type for name in (query, core.present_key, core.present_value)}
    trial = Trial(document.part([result], cuts), document)

    def mix(call: Call, q: Array, k: Array, v: Array) -> Array:
        given = {query: q, core.present_key: k, core.present_value: v}
        plain = [name for name in trial.input_names if name not in cuts]
        feeds = call.feeds(plain, signature)
        feeds |= {name: given[name] for name in trial.input_names if name in cuts}
        return trial.run(feeds)[0]

    found = Attention(
        query, result, _probe_scale(mix, heads), _probe_window(mix, heads, context_length)
    )
    draw = np.random.default_rng(core.layer)
    checks = [
        (call, 1.0, heads.tolerance) for call in (Call(7, 0, 2), Call(3, 6, 2), Call(1, 10, 2))
    ]
    # Scores far apart show a cap on them; near ones would pass through it nearly unchanged.
    checks.append(
        (Call(7, 0, 2), _SHARP_SCORE / (found.scale * heads.dimension**0.5), _SHARP_TOLERANCE)
    )
    for call, sharpness, tolerance in checks:
        q, k, v = _drawn(draw, call, heads)
        q = (q * sharpness).astype(heads.dtype)
        error = relative_error(mix(call, q, k, v), attend(q, k, v, found))
        if error > tolerance:
            raise NotConvertible(
                f"layer {core.layer} computes something else than causal attention (off by {error:.2g})"
            )
    return found


def attend(q: Array, k: Array, v: Array, attention: Attention) -> Array:
    """Causal attention over grouped heads in plain numpy, the yardstick; [batch, count, heads × head]."""
    batch, head_count, count, dimension = q.shape
    group = head_count // k.shape[1]
    keys, values = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    places = np.arange(keys.shape[2])
    own = places[-count:, None]
    seen = places <= own
    if attention.window:
        seen &= places > own - attention.window
    scores = q.astype(np.float64) @ keys.swapaxes(2, 3) * attention.scale
    scores = np.where(seen, scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ values
    result: Array = mixed.swapaxes(1, 2).reshape(batch, count, head_count * dimension)
    return result


def _drawn(draw: np.random.Generator, call: Call, heads: Heads) -> tuple[Array, Array, Array]:
    q = draw.standard_normal((call.batch, heads.query_count, call.count, heads.dimension))
    shape = (call.batch, heads.key_count, call.total, heads.dimension)
    k, v = draw.standard_normal(shape), draw.standard_normal(shape)
    return q.astype(heads.dtype), k.astype(heads.dtype), v.astype(heads.dtype)


def _zeros(call: Call, heads: Heads) -> tuple[Array, Array, Array]:
    q = np.zeros((1, heads.query_count, call.count, heads.dimension), heads.dtype)
    k = np.zeros((1, heads.key_count, call.total, heads.dimension), heads.dtype)
    return q, k, k.copy()


def _probe_scale(mix: _Mix, heads: Heads) -> float:
    """From the shares of two keys, one of which is `root` nearer to the query."""
    call, root = Call(1, 1), math.sqrt(heads.dimension)
    q, k, v = _zeros(call, heads)
    q[..., 0], k[:, :, 0, 0] = root, 1.0
    v[:, :, 0, 0], v[:, :, 1, 1] = 1.0, 1.0
    near, far = (float(x) for x in mix(call, q, k, v).reshape(-1)[:2])
    if not near > 0.0 or not far > 0.0:
        raise NotConvertible("scores have no scale that can be told")
    scale = float(np.log(near / far)) / root
    usual = 1.0 / root
    return usual if abs(scale - usual) <= heads.tolerance * usual else scale


def _probe_window(mix: _Mix, heads: Heads, context_length: int) -> int:
    """How many tokens the last one sees: all (0) or the nearest so many."""
    bytes_per_token = 2 * heads.key_count * heads.dimension * np.dtype(heads.dtype).itemsize
    room = _WINDOW_PROBE_BYTES // bytes_per_token
    total = max(2, min(context_length, _WINDOW_PROBE_TOKENS, room))
    call = Call(1, total - 1)
    q, k, v = _zeros(call, heads)

    def sees_before(place: int) -> bool:
        v[:, :, :place], v[:, :, place:] = 1.0, 0.0
        return bool((mix(call, q, k, v) > 0).all())

    if sees_before(1):
        return 0
    hidden, seen = 1, total  # nothing before `hidden` is seen, something before `seen` is
    while seen - hidden > 1:
        middle = (hidden + seen) // 2
        if sees_before(middle):
            seen = middle
        else:
            hidden = middle
    return total - hidden


class RotationProbe:
    """Tells whether what lies between the projections and the attention is a rotation by position alone."""

    def __init__(
        self,
        document: Document,
        signature: DecoderSignature,
        cores: list[Core],
        queries: list[str],
        heads: Heads,
    ) -> None:
        """NotConvertible when a projection is not one tensor, or is packed in an unknown way."""
        self._signature, self._heads = signature, heads
        self._flats = []
        for core in cores:
            flats = (core.flat_query, core.flat_key, core.flat_value)
            if "" in flats or len(set(flats)) not in (1, 3):
                raise NotConvertible(f"layer {core.layer}'s projections are not told apart")
            self._flats.append(flats)
        self.is_packed = len(set(self._flats[0])) == 1
        if any((len(set(flats)) == 1) != self.is_packed for flats in self._flats):
            raise NotConvertible("some layers' projections are packed and some are not")
        cuts = {name: heads.element_type for flats in self._flats for name in flats}
        outputs = [
            name
            for core, query in zip(cores, queries, strict=True)
            for name in (query, core.key, core.value)
        ]
        self._trial = Trial(document.part(outputs, cuts), document)
        self._cuts = cuts

    def rotation(self, position_count: int) -> Rotation:
        """The tables of all layers. NotConvertible when a layer does more, less, or something else."""
        if self._heads.dimension % 16:
            raise NotConvertible("the library rotates heads of a multiple of 16 only")
        found = self._tables(position_count, interleaved=False)
        try:
            self._check(found)
        except NotConvertible:
            found = self._tables(position_count, interleaved=True)
            self._check(found)
        return found

    def _run(self, call: Call, drawn: Array) -> list[Array]:
        """`drawn` [batch, count, heads + 2 × kv heads, head] to the queries, keys and values of all layers."""
        heads = self._heads
        widths = (heads.query_count, heads.key_count, heads.key_count)
        shape = (call.batch, call.count, -1)
        plain = [name for name in self._trial.input_names if name not in self._cuts]
        feeds = call.feeds(plain, self._signature)
        edges = np.cumsum((0, *widths))
        for flats in self._flats:
            if self.is_packed:
                feeds[flats[0]] = drawn.reshape(shape)
                continue
            for name, first, last in zip(flats, edges, edges[1:], strict=False):
                feeds[name] = np.ascontiguousarray(drawn[:, :, first:last]).reshape(shape)
        return self._trial.run({n: v for n, v in feeds.items() if n in self._trial.input_names})

    def _drawn(self, call: Call, draw: np.random.Generator | None) -> Array:
        heads = self._heads
        shape = (
            call.batch,
            call.count,
            heads.query_count + 2 * heads.key_count,
            heads.dimension,
        )
        if draw is None:
            return np.zeros(shape, heads.dtype)
        return draw.standard_normal(shape).astype(heads.dtype)

    def _tables(self, position_count: int, *, interleaved: bool) -> Rotation:
        """A pair of (1, 0) turns into (cosine, sine)."""
        half = self._heads.dimension // 2
        first, second = _pairs(half, interleaved)
        cosines, sines = [], []
        for start in range(0, position_count, _TABLE_BLOCK_TOKENS):
            call = Call(min(_TABLE_BLOCK_TOKENS, position_count - start), start)
            unit = self._drawn(call, None)
            unit[..., first] = 1.0
            keys = self._run(call, unit)[1]
            if keys.shape != (1, self._heads.key_count, call.count, self._heads.dimension):
                raise NotConvertible(f"rotated keys of shape {keys.shape}")
            cosines.append(keys[0, 0, :, first])
            sines.append(keys[0, 0, :, second])
        return Rotation(
            np.concatenate(cosines),
            np.concatenate(sines),
            interleaved,
        )

    def _check(self, rotation: Rotation) -> None:
        """All layers, at a prompt, a chunk and single far positions: each position must turn by itself."""
        last = len(rotation.cosines) - 1
        draw = np.random.default_rng(3)
        for call in (
            Call(9, 0, 2),
            Call(3, min(5, last - 2), 2),
            Call(1, last),
            Call(1, last // 2),
        ):
            drawn = self._drawn(call, draw)
            by_head = drawn.swapaxes(1, 2)
            turned = rotate(by_head, rotation, call)
            first, second = self._heads.query_count, self._heads.key_count
            expected = (
                turned[:, :first],
                turned[:, first : first + second],
                by_head[:, first + second :],
            )
            for place, value in enumerate(self._run(call, drawn)):
                error = relative_error(value, expected[place % 3])
                if error > self._heads.tolerance:
                    raise NotConvertible(
                        f"layer {place // 3} does something else than a rotation (off by {error:.2g})"
                    )


def rotate(x: Array, rotation: Rotation, call: Call) -> Array:
    """Turns [batch, heads, count, head] by the positions of a call."""
    first, second = _pairs(x.shape[-1] // 2, rotation.interleaved)
    cosine = rotation.cosines[call.past_count : call.total]
    sine = rotation.sines[call.past_count : call.total]
    result = np.empty_like(x)
    result[..., first] = x[..., first] * cosine - x[..., second] * sine
    result[..., second] = x[..., second] * cosine + x[..., first] * sine
    return result


def _pairs(half: int, interleaved: bool) -> tuple[slice, slice]:
    if interleaved:
        return slice(0, None, 2), slice(1, None, 2)
    return slice(0, half), slice(half, None)
