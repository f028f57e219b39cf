"""Which graphs count as decoders with a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farthing.inference.store.onnx_signature import GraphValue, read_signature
from farthing.kit.errors import Unimplemented

FLOAT, HALF, INTEGER = "tensor(float)", "tensor(float16)", "tensor(int64)"


def decoder(layers: int = 12, kind: str = FLOAT) -> tuple[list[GraphValue], list[GraphValue]]:
    plain = ("input_ids", "attention_mask", "position_ids")
    inputs = [GraphValue(name, (None, None), INTEGER) for name in plain]
    outputs = [GraphValue("logits", (None, None, 1000), kind)]
    for layer in range(layers):
        for part in ("key", "value"):
            shape = (None, 4, None, 16)
            inputs.append(GraphValue(f"past_key_values.{layer}.{part}", shape, kind))
            outputs.append(GraphValue(f"present.{layer}.{part}", shape, kind))
    return inputs, outputs


def test_the_cache_is_in_order_of_layers_not_of_names() -> None:
    signature = read_signature(*decoder())
    names = [tensor.past_name for tensor in signature.cache]
    assert names[:3] == [
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_key_values.1.key",
    ]
    assert names[-1] == "past_key_values.11.value"
    assert signature.vocab_size == 1000


def test_half_precision_halves_the_bytes_of_a_token() -> None:
    assert read_signature(*decoder(2)).cache_bytes_per_token == 2 * 2 * 4 * 16 * 4
    assert read_signature(*decoder(2, HALF)).cache_bytes_per_token == 2 * 2 * 4 * 16 * 2


def test_position_ids_may_be_absent() -> None:
    inputs, outputs = decoder()
    signature = read_signature([v for v in inputs if v.name != "position_ids"], outputs)
    assert not signature.has_position_ids


def test_free_dimensions_are_taken_from_the_configuration() -> None:
    inputs, outputs = decoder(1)
    free = [replace(v, shape=tuple(None for _ in v.shape)) for v in inputs]
    cache = read_signature(free, outputs, head_count=2, head_dimension=8).cache
    assert {(c.head_count, c.head_dimension) for c in cache} == {(2, 8)}
    with pytest.raises(Unimplemented, match="heads"):
        read_signature(free, outputs)


@pytest.mark.parametrize(
    ("drop_input", "drop_output", "finding"),
    [
        ("input_ids", "", "no input input_ids"),
        ("", "logits", "no output logits"),
        ("", "present.3.key", "no output present.3.key"),
    ],
)
def test_a_missing_part_is_named(drop_input: str, drop_output: str, finding: str) -> None:
    inputs, outputs = decoder()
    with pytest.raises(Unimplemented, match=finding):
        read_signature(
            [v for v in inputs if v.name != drop_input],
            [v for v in outputs if v.name != drop_output],
        )


def test_a_graph_without_a_cache_is_refused() -> None:
    inputs, outputs = decoder(0)
    with pytest.raises(Unimplemented, match="no key/value cache"):
        read_signature(inputs, outputs)


def test_an_input_nobody_knows_how_to_feed_is_refused() -> None:
    inputs, outputs = decoder()
    inputs.append(GraphValue("pixel_values", (None, 3, 224, 224), FLOAT))
    with pytest.raises(Unimplemented, match="pixel_values"):
        read_signature(inputs, outputs)
