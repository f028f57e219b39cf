from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.support.garbage import collecting_garbage

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.embedder import LlamaEmbedder
from farthing.edge.plan import LoadPlan
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import InvalidArgument

TEXTS = [[*range(10, 10 + length)] for length in (5, 1, 40, 17, 33)]


@pytest.fixture(scope="module", params=["F32", "Q8_0", "window", "recurrent"])
def backend(
    request: pytest.FixtureRequest, plan_for: Callable[..., LoadPlan]
) -> Iterator[LlamaBatchBackend]:
    backend = LlamaBatchBackend(plan_for(request.param))
    yield backend
    backend.close()


@pytest.fixture
def embedder(backend: LlamaBatchBackend) -> Iterator[LlamaEmbedder]:
    embedder = LlamaEmbedder(backend.weights, context_length=48, thread_count=1)
    yield embedder
    embedder.close()


def test_a_vector_is_the_mean_of_what_the_logits_are_made_of(
    backend: LlamaBatchBackend, embedder: LlamaEmbedder, model_paths: dict[str, Path]
) -> None:
    reader = gguf.GGUFReader(model_paths[backend.model.name])
    (output,) = (one for one in reader.tensors if one.name == "output.weight")
    head = gguf.dequantize(output.data, output.tensor_type).astype(np.float32)
    for tokens, vector in zip(TEXTS, embedder.embed(TEXTS), strict=True):
        step = backend.step([SlotWork(0, 0, tokens, len(tokens))])
        mean = np.mean([step.row(index) for index in range(len(tokens))], axis=0)
        seen = head @ vector
        cosine = mean @ seen / np.linalg.norm(mean) / np.linalg.norm(seen)
        assert cosine > 0.999


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(
    embedder: LlamaEmbedder,
) -> None:
    texts = [TEXTS[index % len(TEXTS)] for index in range(80)]
    vectors = embedder.embed(texts)
    assert vectors.shape == (80, 64) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embedder.embed([tokens]) for tokens in texts])
    np.testing.assert_allclose(vectors, alone, atol=0.01)


def test_embedding_leaves_nothing_to_collect(embedder: LlamaEmbedder) -> None:
    with collecting_garbage() as left:
        assert embedder.embed(TEXTS).any()
    assert left == []


def test_no_texts_give_no_vectors(embedder: LlamaEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("tokens", "reason"), [([5] * 49, "CONTEXT_EXCEEDED"), ([], "PROMPT_EMPTY")]
)
def test_a_text_that_does_not_fit_is_named(
    embedder: LlamaEmbedder, tokens: list[int], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        embedder.embed([TEXTS[0], tokens])
    assert (caught.value.field, caught.value.reason) == ("texts[1]", reason)


def test_embeddings_leave_the_slots_alone_and_outlive_the_backend(
    plan_for: Callable[..., LoadPlan],
) -> None:
    backend = LlamaBatchBackend(plan_for("F16"))
    embedder = LlamaEmbedder(backend.weights, context_length=16, thread_count=1)
    (expected,) = backend.step([SlotWork(0, 0, TEXTS[2])]).best()
    backend.step([SlotWork(1, 0, TEXTS[2][:-1])])
    vectors = embedder.embed(TEXTS[:2])
    (token,) = backend.step([SlotWork(1, 39, TEXTS[2][-1:])]).best()
    assert token == expected
    backend.close()
    assert np.array_equal(embedder.embed(TEXTS[:2]), vectors)
    embedder.close()
    embedder.close()
