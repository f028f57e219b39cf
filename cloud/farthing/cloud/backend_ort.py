"""The engine's Backend over ONNX Runtime: a folder in Optimum's layout, one sequence, CUDA or CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farthing.cloud.codec import read_chat_template, token_text
from farthing.cloud.decoder import Decoder
from farthing.cloud.plan import LoadPlan
from farthing.cloud.runtime import Device, OpenedSession, open_session
from farthing.cloud.tokenizer import ModelTokenizer
from farthing.inference.backend import ChatMessage, Constraint, Logits
from farthing.inference.core.card import parse_card
from farthing.inference.model import Capability, ModelDescription
from farthing.inference.store.onnx_folder import find_graph, folder_of, read_config, read_json
from farthing.inference.store.onnx_signature import GraphValue, read_signature
from farthing.inference.store.onnx_weights import read_weights
from farthing.kit.errors import FailedPrecondition, Unimplemented

# A chunk takes a GPU a few milliseconds at either size; on a CPU the smaller one keeps steps short.
CHUNK_TOKEN_COUNTS: dict[Device, int] = {"cpu": 128, "cuda": 512}


class OrtBackend:
    """Implements Backend. No JSON constraint: the capability is absent, so routers do not ask for it."""

    def __init__(self, plan: LoadPlan) -> None:
        """Opens the model. FailedPrecondition, InvalidArgument or Unimplemented say what is wrong with it."""
        graph = find_graph(plan.path)
        folder = folder_of(graph)
        config = read_config(folder)
        self._tokenizer = ModelTokenizer(folder / "tokenizer.json")
        self._opened = open_session(graph, wish=plan.device, thread_count=plan.thread_count)
        signature = read_signature(
            _values(self._opened.session.get_inputs()),
            _values(self._opened.session.get_outputs()),
            head_count=config.head_count,
            head_dimension=config.head_dimension,
        )
        self._chunk_token_count = (
            plan.prefill_chunk_token_count or CHUNK_TOKEN_COUNTS[self._opened.device]
        )
        self._decoder = Decoder(self._opened, signature, self._chunk_token_count)
        texts = (
            read_json(folder, "tokenizer_config.json")
            if (folder / "tokenizer_config.json").is_file()
            else {}
        )
        self._template = read_chat_template(folder, texts)
        eos_ids = frozenset(config.eos_ids or self._eos_fallback(texts))
        if not eos_ids:
            raise FailedPrecondition(
                f"{folder} names no end token; set eos_token_id in generation_config.json",
                reason="MODEL_INCOMPLETE",
                metadata={"path": str(folder)},
            )
        self._model = _describe(
            plan,
            graph,
            context_length=min(
                filter(None, (config.context_length, plan.context_length)), default=0
            ),
            vocab_size=signature.vocab_size or config.vocab_size or self._tokenizer.vocab_size,
            bos_ids=self._tokenizer.bos_ids,
            eos_ids=eos_ids,
            takes_messages=self._template is not None,
        )

    @property
    def model(self) -> ModelDescription:
        """See Backend."""
        return self._model

    @property
    def opened(self) -> OpenedSession:
        """The session and the device it runs on."""
        return self._opened

    @property
    def prefill_chunk_token_count(self) -> int:
        """See Backend."""
        return self._chunk_token_count

    @property
    def special_texts(self) -> frozenset[str]:
        """See Backend."""
        return self._tokenizer.special_texts

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See Backend."""
        return self._tokenizer.encode(text, special=special)

    def token_bytes(self, token: int) -> bytes:
        """See Backend."""
        return self._tokenizer.token_bytes(token)

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """See Backend."""
        if self._template is None:
            raise Unimplemented(
                f"{self._model.name} has no chat template; send a prompt instead of messages",
                reason="CHAT_UNSUPPORTED",
                metadata={"model": self._model.name},
            )
        return self._template.render(messages)

    def constrain(self, json_schema: str) -> Constraint:
        """Always Unimplemented: this engine has no grammar."""
        raise Unimplemented(
            f"{self._model.name} runs on an engine without JSON schemas; choose a model with that capability",
            reason="JSON_SCHEMA_UNSUPPORTED",
            metadata={"model": self._model.name},
        )

    def rewind(self, token_count: int) -> int:
        """See Backend."""
        return self._decoder.rewind(token_count)

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """See Backend."""
        return self._decoder.step(tokens)

    def decode(self, token: int) -> Logits:
        """See Backend."""
        return self._decoder.step((token,))

    def interrupt(self) -> None:
        """See Backend."""
        self._decoder.interrupt()

    def close(self) -> None:
        """See Backend."""
        self._decoder.close()
        self._opened = replace(self._opened, session=None)

    def _eos_fallback(self, texts: dict[str, Any]) -> list[int]:
        token = self._tokenizer.find(token_text(texts.get("eos_token")))
        return [] if token is None else [token]


def _values(items: Sequence[Any]) -> list[GraphValue]:
    return [
        GraphValue(v.name, tuple(d if isinstance(d, int) else None for d in v.shape), v.type)
        for v in items
    ]


def _describe(
    plan: LoadPlan,
    graph: Path,
    *,
    context_length: int,
    vocab_size: int,
    bos_ids: tuple[int, ...],
    eos_ids: frozenset[int],
    takes_messages: bool,
) -> ModelDescription:
    card = parse_card(plan.card, graph.relative_to(folder_of(graph)).as_posix())
    weights = read_weights(graph)
    declared_count = plan.card.get("params_count")
    if not context_length:
        raise FailedPrecondition(
            f"{plan.name} does not say its context length; set FARTHING_CLOUD_CONTEXT",
            reason="MODEL_INCOMPLETE",
            metadata={"model": plan.name},
        )
    chat = {Capability.CHAT} if takes_messages else set()
    return ModelDescription(
        name=plan.name,
        digest=plan.digest,
        format="onnx",
        quantization=weights.precision,
        parameter_count=declared_count
        if isinstance(declared_count, int)
        else weights.parameter_count,
        context_length=context_length,
        vocab_size=vocab_size,
        bos_ids=bos_ids,
        eos_ids=eos_ids,
        capabilities=frozenset({Capability.LOGPROBS} | chat),
        qualities=card.qualities,
        bytes_per_token=card.bytes_per_token,
    )
