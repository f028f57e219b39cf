"""Rounds weights to 8 or 4 bits in blocks, in the layout of MatMulNBits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
# Columns that are rounded at a time: bounds the memory of the work, not its result.
_COLUMNS_AT_ONCE = 512
# Shares of a block's range that the fit tries; below these the clipped values cost more than finer steps gain.
_RANGES = np.linspace(1.0, 0.65, 16)

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rounded:
    """`packed` [columns, blocks, bytes], `scales` and `zeros` for each block of each column; no zeros: the middle."""

    packed: NDArray[np.uint8]
    scales: _Floats
    zeros: NDArray[np.uint8] | None


def round_to_int8(weight: _Floats) -> Rounded:
    """A matrix [rows, columns] in 8 bits, symmetric, a scale for each 32 rows of a column."""
    packed, scales = [], []
    for blocks in _column_blocks(weight):
        scale = np.abs(blocks).max(-1) / np.float32(127.0)
        scale = np.where(scale > 0, scale, np.float32(1.0))
        packed.append((np.rint(blocks / scale[..., None]) + 128).astype(np.uint8))
        scales.append(scale)
    return Rounded(np.concatenate(packed), np.concatenate(scales).reshape(-1), None)


def round_to_int4(weight: _Floats, *, fitted: bool) -> Rounded:
    """A matrix [rows, columns] in 4 bits with a scale and a zero point for each 32 rows of a column.

    Plain rounding spreads 16 steps over the block's range. `fitted` tries narrower ranges too, fits each one's scale by
    least squares, and takes the one with the least squared error.
    """
    packed, scales, zeros = [], [], []
    for blocks in _column_blocks(weight):
        values, scale, zero = _spread(blocks, 1.0, refit=False)
        if fitted:
            values, scale, zero = _best_spread(blocks)
        packed.append(_pack_pairs(values))
        scales.append(scale)
        zeros.append(_pack_zeros(zero))
    return Rounded(
        np.concatenate(packed),
        np.concatenate(scales).reshape(-1),
        np.concatenate(zeros).reshape(-1),
    )


def _column_blocks(weight: _Floats) -> list[_Floats]:
    """[columns, blocks, 32], a few columns at a time; rows beyond the last are zeros."""
    rows, columns = weight.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, columns), np.float32)
    padded[:rows] = weight
    parts = []
    for start in range(0, columns, _COLUMNS_AT_ONCE):
        part = padded[:, start : start + _COLUMNS_AT_ONCE].T
        parts.append(np.ascontiguousarray(part).reshape(len(part), -1, BLOCK))
    return parts


_Spread = tuple[NDArray[np.uint8], _Floats, NDArray[np.uint8]]


def _spread(blocks: _Floats, share: float, *, refit: bool) -> _Spread:
    """16 steps over a share of each block's range, which holds 0: values, scales, zero points."""
    low = np.minimum(blocks.min(-1), 0) * np.float32(share)
    high = np.maximum(blocks.max(-1), 0) * np.float32(share)
    scale = (high - low) / np.float32(15.0)
    scale = np.where(scale > 0, scale, np.float32(1.0))
    zero = np.clip(np.rint(-low / scale), 0, 15)
    values = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, 15)
    if refit:
        steps = values - zero[..., None]
        weight = (steps * steps).sum(-1)
        fit = (steps * blocks).sum(-1) / np.maximum(weight, np.float32(1e-12))
        scale = np.where(fit > 0, fit, scale).astype(np.float32)
        values = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, 15)
    return values.astype(np.uint8), scale.astype(np.float32), zero.astype(np.uint8)


def _best_spread(blocks: _Floats) -> _Spread:
    best = _spread(blocks, 1.0, refit=False)
    least = _squared_error(blocks, best)
    for share in _RANGES:
        tried = _spread(blocks, float(share), refit=True)
        error = _squared_error(blocks, tried)
        better = error < least
        least = np.where(better, error, least)
        best = (
            np.where(better[..., None], tried[0], best[0]),
            np.where(better, tried[1], best[1]),
            np.where(better, tried[2], best[2]),
        )
    return best


def _squared_error(blocks: _Floats, spread: _Spread) -> _Floats:
    values, scale, zero = spread
    steps = values.astype(np.float32) - zero[..., None]
    error: _Floats = np.square(blocks - steps * scale[..., None]).sum(-1)
    return error


def _pack_zeros(zeros: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two zero points a byte, each column by itself."""
    if zeros.shape[1] % 2:
        zeros = np.concatenate([zeros, np.full((len(zeros), 1), 8, np.uint8)], axis=1)
    return _pack_pairs(zeros)


def _pack_pairs(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit values a byte, the first in the lower half."""
    packed: NDArray[np.uint8] = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    return packed
