from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.garbage import collecting_garbage
from tests.support.tiny_gguf import SPECIALS

from farthing.edge.codec import LlamaCodec
from farthing.edge.llama_log import LibraryLog
from farthing.edge.llama_model import LlamaModel
from farthing.inference.batch_backend import ChatMessage, TextCodec
from farthing.kit.errors import Unimplemented


@pytest.fixture(scope="module")
def codec(model_paths: dict[str, Path]) -> Iterator[LlamaCodec]:
    yield LlamaCodec(LlamaModel(model_paths["Q8_0"], LibraryLog()), "tiny")


@given(text=st.text(max_size=40) | st.lists(st.sampled_from(SPECIALS)).map("".join))
def test_tokens_spell_the_text_they_came_from(codec: TextCodec, text: str) -> None:
    tokens = codec.tokenize(text, special=False)
    assert b"".join(map(codec.token_bytes, tokens)).decode() == text


def test_reading_tokens_leaves_nothing_to_collect(codec: TextCodec) -> None:
    with collecting_garbage() as left:
        assert codec.tokenize("some words", special=False)
    assert left == []


def test_control_tokens_are_read_only_where_they_may_be(codec: LlamaCodec) -> None:
    assert codec.special_texts == set(SPECIALS)
    (token,) = codec.tokenize("<|user|>", special=True)
    assert codec.token_bytes(token) == b""
    assert len(codec.tokenize("<|user|>", special=False)) > 1
    assert codec.eos_ids == set(codec.tokenize("<|end|>", special=True))
    assert codec.bos_ids == ()


def test_the_template_comes_from_the_file(codec: TextCodec) -> None:
    rendered = codec.render_chat([ChatMessage("user", "hi")])
    assert rendered == "<|user|>hi<|end|><|assistant|>"


def test_a_model_without_a_template_says_so(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    path = tmp_path / "plain.gguf"
    path.write_bytes(
        model_paths["F16"]
        .read_bytes()
        .replace(b"tokenizer.chat_template", b"tokenizer.chat_templatf")
    )
    codec = LlamaCodec(LlamaModel(path, LibraryLog()), "plain")
    assert not codec.has_chat_template
    with pytest.raises(Unimplemented) as caught:
        codec.render_chat([ChatMessage("user", "hi")])
    assert caught.value.reason == "CHAT_TEMPLATE_MISSING"


def test_a_model_that_starts_with_a_token_names_it(
    tmp_path: Path, model_paths: dict[str, Path]
) -> None:
    path = tmp_path / "bos.gguf"
    path.write_bytes(model_paths["F16"].read_bytes())
    field = gguf.GGUFReader(path, "r+").fields["tokenizer.ggml.add_bos_token"]
    field.parts[-1][0] = True
    codec = LlamaCodec(LlamaModel(path, LibraryLog()), "bos")
    assert codec.bos_ids == (0,)
    assert codec.tokenize("a", special=True) == [4 + ord("a")]


def test_threads_read_the_same_tokens_at_once(codec: TextCodec) -> None:
    texts = [f"the {number} theatres – 中文" * 20 for number in range(64)]
    expected = [codec.tokenize(text, special=False) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            found = pool.map(lambda text: codec.tokenize(text, special=False), texts)
            assert list(found) == expected


def test_the_vocabulary_outlives_everything_else(
    plan_for: Callable[..., object], model_paths: dict[str, Path]
) -> None:
    weights = LlamaModel(model_paths["F16"], LibraryLog())
    codec = LlamaCodec(weights, "tiny")
    del weights
    assert codec.tokenize("the", special=False)
