"""Damaged and hostile GGUF files end in a clear error or in a working model, never in a dead parent."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.selftest_children import SelftestChildren

from farthing.edge.memory_need import check_memory
from farthing.edge.plan import LoadPlan
from farthing.inference.core.card import ModelCard
from farthing.inference.store.gguf import check_gguf
from farthing.kit.errors import FarthingError

NUMBERS = [0, 1, 2, 3, 31, 63, 65, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
FIELDS = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "vocab_size",
]
pytestmark = pytest.mark.slow
_HARD = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def children() -> Iterator[SelftestChildren]:
    with SelftestChildren() as children:
        yield children


@pytest.fixture(scope="module")
def sound(model_paths: dict[str, Path]) -> Path:
    return model_paths["Q8_0"]


def judge(data: bytes, folder: Path, children: SelftestChildren) -> str:
    """What becomes of a file on its way into service; anything but a FarthingError fails the test."""
    path = folder / "hostile.gguf"
    path.write_bytes(data)
    plan = LoadPlan(path, "hostile", "", ModelCard(), 256, 1, slot_count=4)
    try:
        check_gguf(path)
        check_memory(plan)
        children.run(plan)
    except FarthingError as error:
        assert "Traceback" not in error.message, error.message
        assert "SIGALRM" not in error.message, "the engine hangs"
        return error.reason
    return "works"


def find_header_end(data: bytes | bytearray) -> int:
    """Where the last tensor's entry ends, by the name of the last tensor."""
    return data.index(b"blk.1.attn_norm.weight") + 200


@_HARD
@given(ratio=st.floats(0, 1))
def test_a_file_cut_off_anywhere(
    ratio: float, sound: Path, children: SelftestChildren, tmp_path: Path
) -> None:
    data = sound.read_bytes()
    length = int(ratio * (len(data) - 1))
    assert judge(data[:length], tmp_path, children) == "MODEL_CORRUPT"


@_HARD
@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=4),
    in_header=st.booleans(),
)
def test_a_file_with_flipped_bits(
    flips: list[tuple[float, int]],
    in_header: bool,
    sound: Path,
    children: SelftestChildren,
    tmp_path: Path,
) -> None:
    data = bytearray(sound.read_bytes())
    end = find_header_end(data) if in_header else len(data)
    for ratio, bit in flips:
        data[int(ratio * (end - 1))] ^= 1 << bit
    judge(bytes(data), tmp_path, children)


@_HARD
@given(field=st.sampled_from(FIELDS), number=st.sampled_from(NUMBERS) | st.integers(0, 600))
def test_a_file_whose_numbers_lie(
    field: str, number: int, sound: Path, children: SelftestChildren, tmp_path: Path
) -> None:
    data = bytearray(sound.read_bytes())
    name = f"llama.{field}".encode()
    place = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    (kind,) = struct.unpack_from("<I", data, place)
    assert kind == 4  # a number of 32 bits
    struct.pack_into("<I", data, place + 4, number % 2**32)
    judge(bytes(data), tmp_path, children)


@_HARD
@given(place=st.floats(0, 1), number=st.sampled_from(NUMBERS))
def test_a_file_whose_lengths_and_offsets_lie(
    place: float, number: int, sound: Path, children: SelftestChildren, tmp_path: Path
) -> None:
    data = bytearray(sound.read_bytes())
    at = int(place * (find_header_end(data) - 8))
    struct.pack_into("<Q", data, at, number)
    judge(bytes(data), tmp_path, children)


def test_a_sound_file_works(sound: Path, children: SelftestChildren, tmp_path: Path) -> None:
    assert judge(sound.read_bytes(), tmp_path, children) == "works"
