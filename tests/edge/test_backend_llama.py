from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support.inference_contract import PROMPT, greedy_reference
from tests.support.tiny_gguf import CONTEXT, write_tiny_gguf

from farthing.edge.backend_llama import LlamaBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.backend import ChatMessage, Interrupted
from farthing.inference.core.card import ModelCard
from farthing.inference.model import Capability
from farthing.kit.errors import FailedPrecondition, InvalidArgument


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LoadPlan:
    path = write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")
    return LoadPlan(path, "tiny", "e" * 64, ModelCard(), 8_192, 1, 16)


@pytest.fixture
def backend(plan: LoadPlan) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(plan)
    yield backend
    backend.close()


def test_the_file_describes_itself(backend: LlamaBackend) -> None:
    model = backend.model
    assert (model.format, model.quantization) == ("gguf", "Q8_0")
    assert model.context_length == CONTEXT
    assert model.eos_ids == {0}
    assert model.bos_ids == ()
    assert model.parameter_count > 100_000
    assert Capability.CHAT in model.capabilities
    assert backend.special_texts == {"<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}


def test_tokens_spell_the_text_they_came_from(backend: LlamaBackend) -> None:
    text = "the café – 中文 <|user|>"
    plain = backend.tokenize(text, special=False)
    assert b"".join(map(backend.token_bytes, plain)).decode() == text
    special = backend.tokenize(text, special=True)
    assert len(special) < len(plain)
    assert backend.token_bytes(special[-1]) == b""
    assert backend.tokenize("", special=True) == []


def test_the_template_comes_from_the_file(backend: LlamaBackend) -> None:
    rendered = backend.render_chat([ChatMessage("user", "hi")])
    assert rendered == "<|user|>hi<|end|><|assistant|>"


def test_kept_state_gives_bit_for_bit_the_same_logits(backend: LlamaBackend) -> None:
    tokens = backend.tokenize(PROMPT, special=False)
    backend.rewind(0)
    for place in range(0, len(tokens), 16):
        fresh = backend.prefill(tokens[place : place + 16]).copy()
    backend.decode(7)
    assert backend.rewind(32) == 32
    for place in range(32, len(tokens), 16):
        again = backend.prefill(tokens[place : place + 16]).copy()
    assert np.array_equal(fresh, again)


def test_an_interrupt_gives_a_step_up_until_the_next_rewind(backend: LlamaBackend) -> None:
    tokens = backend.tokenize(PROMPT, special=False)
    expected = greedy_reference(backend, tokens, 8)
    backend.rewind(0)
    backend.interrupt()
    for _ in range(2):
        with pytest.raises(Interrupted):
            backend.prefill(tokens[:16])
    assert greedy_reference(backend, tokens, 8) == expected


@pytest.mark.parametrize(
    "schema",
    ["{", "[" * 100_000, "[]", '{"type": "nothing"}', '{"$ref": "https://example.com/x.json"}'],
)
def test_a_schema_without_a_grammar_is_refused(backend: LlamaBackend, schema: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        backend.constrain(schema)
    assert caught.value.field == "input.response_format.json_schema"


def test_a_constraint_frees_its_grammar_once(backend: LlamaBackend) -> None:
    constraint = backend.constrain('{"type": "boolean"}')
    logits = np.zeros(backend.model.vocab_size, np.float32)
    constraint.mask(logits)
    allowed = {backend.token_bytes(int(token)) for token in np.flatnonzero(logits == 0)}
    assert {b"t", b"f"} <= allowed
    assert b"x" not in allowed
    constraint.close()
    constraint.close()


def test_a_file_that_is_no_model_is_refused(plan: LoadPlan, tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FailedPrecondition):
        LlamaBackend(LoadPlan(path, "no", "", ModelCard(), 64, 1, 16))
