"""GGUF headers: what they say is read, what they promise is checked against the file."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.plain_gguf import write_gguf

from farthing.inference.store.gguf import check_gguf, read_header
from farthing.inference.store.gguf_tables import ARCHITECTURES, FILE_TYPES, TENSOR_TYPES
from farthing.kit.errors import FarthingError, InvalidArgument, Unimplemented


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_facts_come_from_the_file_itself(model: Path) -> None:
    facts = check_gguf(model)
    assert facts.architecture == "llama"
    assert facts.context_length == 512
    assert facts.vocab_size == 3
    assert facts.parameter_count == 64 * 32 + 32
    assert facts.quantization == "Q8_0"
    assert facts.title == "Small"


def test_tensor_extents_agree_with_the_writers_own_reader(model: Path) -> None:
    theirs = {
        t.name: (int(t.data_offset), int(t.n_bytes)) for t in gguf.GGUFReader(model).tensors
    }
    ours = {t.name: (t.offset_bytes, t.size_bytes) for t in read_header(model).tensors}
    assert ours == theirs


def test_the_tables_agree_with_the_gguf_package() -> None:
    for number, (name, values, size) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (values, size))
    for number, name in FILE_TYPES.items():
        assert name in gguf.LlamaFileType(number).name
    assert ARCHITECTURES <= set(gguf.MODEL_ARCH_NAMES.values())


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_as_truncated(
    share: float, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = model.read_bytes()
    cut = tmp_path_factory.mktemp("cut") / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InvalidArgument, match=r"truncated|magic"):
        check_gguf(cut)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_header_never_raises_anything_but_our_errors(
    place: int, value: int, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(model.read_bytes())
    data[place] = value
    damaged = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    damaged.write_bytes(data)
    try:
        check_gguf(damaged)
    except FarthingError as error:
        assert error.message


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 2_000), value=st.binary(min_size=8, max_size=8))
def test_a_hostile_length_anywhere_is_refused_or_harmless(
    place: int, value: bytes, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(model.read_bytes())
    place = min(place, len(data) - 8)
    data[place : place + 8] = value
    hostile = tmp_path_factory.mktemp("hostile") / "hostile.gguf"
    hostile.write_bytes(data)
    try:
        facts = check_gguf(hostile)
    except FarthingError as error:
        assert error.message
    else:
        assert 0 <= facts.context_length < 2**31
        assert 0 < facts.parameter_count < len(data) * 8


def replace_entry(model: Path, key: str, value: bytes, path: Path) -> Path:
    """The model with other bytes right behind a metadata key: the kind and the value."""
    data = bytearray(model.read_bytes())
    place = data.index(key.encode()) + len(key)
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def test_a_list_of_more_texts_than_any_vocabulary_has_is_refused_unread(
    model: Path, tmp_path: Path
) -> None:
    value = struct.pack("<IIQ", 9, 8, 1 << 62)
    path = replace_entry(model, "tokenizer.ggml.tokens", value, tmp_path / "list.gguf")
    with pytest.raises(InvalidArgument, match="announces 4611686018427387904 texts"):
        check_gguf(path)


def test_a_context_length_beyond_the_contracts_is_refused(model: Path, tmp_path: Path) -> None:
    value = struct.pack("<II", 4, 0xFFFF_FFFF)
    path = replace_entry(model, "llama.context_length", value, tmp_path / "long.gguf")
    with pytest.raises(InvalidArgument, match="a context length of 4294967295"):
        check_gguf(path)


def test_tensors_that_share_a_place_are_refused_as_llama_cpp_does(
    model: Path, tmp_path: Path
) -> None:
    data = bytearray(model.read_bytes())
    # Behind the second tensor's name: number of dimensions, one dimension, the type, the offset.
    place = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    data[place : place + 8] = struct.pack("<Q", 0)
    path = tmp_path / "shared.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidArgument, match=r"output_norm\.weight is announced at 0"):
        check_gguf(path)


def test_a_header_of_endless_size_is_refused_before_it_is_read(
    model: Path, tmp_path: Path
) -> None:
    path = replace_entry(
        model,
        "tokenizer.ggml.tokens",
        struct.pack("<IIQ", 9, 0, 1 << 29),
        tmp_path / "endless.gguf",
    )
    os.truncate(path, 1 << 32)  # sparse: takes no room
    with pytest.raises(InvalidArgument, match="header is larger than"):
        check_gguf(path)


def test_a_title_is_one_printable_line(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", name="bad\x1b[31m\nname")
    assert check_gguf(path).title == "bad [31m name"


def test_something_else_with_the_ending_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>not found</html>")
    with pytest.raises(InvalidArgument, match="magic"):
        check_gguf(path)


def test_an_encoder_is_refused_by_its_architecture(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bert.gguf", architecture="bert")
    with pytest.raises(Unimplemented, match="'bert'") as caught:
        check_gguf(path)
    assert caught.value.reason == "MODEL_ARCHITECTURE_UNSUPPORTED"


def test_one_part_of_a_split_model_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "part.gguf", split_count=3)
    with pytest.raises(Unimplemented, match="merge"):
        check_gguf(path)


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bare.gguf", tokens=())
    with pytest.raises(InvalidArgument, match="no tokenizer"):
        check_gguf(path)


def test_without_a_file_type_the_weights_decide_the_quantization(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "untyped.gguf", file_type=None)
    assert check_gguf(path).quantization == "Q8_0"
    assert np.isclose(read_header(path).metadata["general.alignment"], 32)
