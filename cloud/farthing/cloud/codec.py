"""The texts of a model folder: tokenizer, chat template, and the tokens that begin and end a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farthing.cloud.tokenizer import ModelTokenizer
from farthing.inference.batch_backend import ChatMessage
from farthing.inference.chat_template import ChatTemplate
from farthing.inference.store.onnx_folder import read_json
from farthing.kit.errors import FailedPrecondition, Unimplemented


class OrtCodec:
    """Implements TextCodec for an ONNX folder in Optimum's layout. Thread-safe."""

    def __init__(self, folder: Path, model_name: str, declared_eos_ids: Sequence[int]) -> None:
        """FailedPrecondition, InvalidArgument or Unimplemented say what is wrong with the folder's files.

        `declared_eos_ids` are those that config.json or generation_config.json number.
        """
        self._model_name = model_name
        self._tokenizer = ModelTokenizer(folder / "tokenizer.json")
        texts: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            texts = read_json(folder, "tokenizer_config.json")
        self._template = read_chat_template(folder, texts)
        self.eos_ids = frozenset(declared_eos_ids or self._named_eos_ids(texts))
        if not self.eos_ids:
            raise FailedPrecondition(
                f"{folder} names no end token; set eos_token_id in generation_config.json",
                reason="MODEL_INCOMPLETE",
                metadata={"path": str(folder)},
            )

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """What begins every sequence."""
        return self._tokenizer.bos_ids

    @property
    def takes_messages(self) -> bool:
        """Whether there is a chat template."""
        return self._template is not None

    @property
    def vocab_size(self) -> int:
        """Tokens that stand for something."""
        return self._tokenizer.vocab_size

    @property
    def special_texts(self) -> frozenset[str]:
        """See TextCodec."""
        return self._tokenizer.special_texts

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See TextCodec."""
        return self._tokenizer.encode(text, special=special)

    def token_bytes(self, token: int) -> bytes:
        """See TextCodec."""
        return self._tokenizer.token_bytes(token)

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """See TextCodec."""
        if self._template is None:
            raise Unimplemented(
                f"{self._model_name} has no chat template; send a prompt instead of messages",
                reason="CHAT_UNSUPPORTED",
                metadata={"model": self._model_name},
            )
        return self._template.render(messages)

    def _named_eos_ids(self, texts: dict[str, Any]) -> list[int]:
        token = self._tokenizer.find(token_text(texts.get("eos_token")))
        return [] if token is None else [token]


def read_chat_template(folder: Path, texts: dict[str, Any]) -> ChatTemplate | None:
    """The folder's template, a file of its own before the one in tokenizer_config.json (`texts`)."""
    beside = folder / "chat_template.jinja"
    source: object = texts.get("chat_template")
    if beside.is_file():
        source = beside.read_text(encoding="utf-8")
    elif isinstance(source, list):
        named = {str(t.get("name")): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
    if not isinstance(source, str) or not source:
        return None
    return ChatTemplate(
        source,
        bos_text=token_text(texts.get("bos_token")),
        eos_text=token_text(texts.get("eos_token")),
    )


def token_text(value: object) -> str:
    """A token of tokenizer_config.json: written as a text, or as an object with its `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
