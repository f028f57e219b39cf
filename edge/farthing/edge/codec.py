"""Between text and tokens of a GGUF model: its vocabulary and its chat template. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama
import numpy as np

from farthing.edge.llama_model import LlamaModel
from farthing.edge.pointers import point_to
from farthing.inference.chat_template import ChatTemplate, Message
from farthing.kit.errors import Unimplemented


class LlamaCodec:
    """Implements TextCodec. llama.cpp only reads its vocabulary, so any thread may call."""

    def __init__(self, weights: LlamaModel, model_name: str) -> None:
        """Raises FailedPrecondition for a chat template that is not valid."""
        vocab = weights.vocab
        size = self.vocab_size = weights.vocab_size
        bos, eos = int(llama.llama_vocab_bos(vocab)), int(llama.llama_vocab_eos(vocab))
        starts = llama.llama_vocab_get_add_bos(vocab) and bos >= 0
        self.bos_ids = (bos,) if starts else ()
        self.eos_ids = frozenset(
            one for one in range(size) if llama.llama_vocab_is_eog(vocab, one)
        )
        controls = (one for one in range(size) if llama.llama_vocab_is_control(vocab, one))
        texts = (_read_piece(vocab, one, special=True) for one in controls)
        self._special_texts = frozenset(
            text.decode("utf-8", "replace") for text in texts if text
        )
        source = weights.chat_template
        self._template = (
            ChatTemplate(
                source, bos_text=_control_text(vocab, bos), eos_text=_control_text(vocab, eos)
            )
            if source
            else None
        )
        self._model_name = model_name
        self._pieces: dict[int, bytes] = {}
        self._weights = weights  # so that the vocabulary stays
        self._vocab = vocab

    @property
    def has_chat_template(self) -> bool:
        """Whether `render_chat` works."""
        return self._template is not None

    @property
    def special_texts(self) -> frozenset[str]:
        """See TextCodec."""
        return self._special_texts

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See TextCodec."""
        data = text.encode()
        if not data:
            return []
        room = len(data) + 16  # no tokenizer makes more tokens than bytes, but for a prefix
        while True:
            tokens = np.empty(room, np.int32)
            count = llama.llama_tokenize(
                self._vocab,
                data,
                len(data),
                point_to(tokens, llama.llama_token),
                room,
                False,
                special,
            )
            if count >= 0:
                found: list[int] = tokens[:count].tolist()
                return found
            room = -count

    def token_bytes(self, token: int) -> bytes:
        """See TextCodec."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = _read_piece(self._vocab, token, special=False)
        return piece

    def render_chat(self, messages: Sequence[Message]) -> str:
        """See TextCodec."""
        if self._template is None:
            raise Unimplemented(
                f"Model {self._model_name} has no chat template. Send a prompt instead of messages.",
                reason="CHAT_TEMPLATE_MISSING",
            )
        return self._template.render(messages)


def _control_text(vocab: Any, token: int) -> str:
    """A token as templates write it; "" for a token that the model does not have."""
    if token < 0:
        return ""
    return _read_piece(vocab, token, special=True).decode("utf-8", "replace")


def _read_piece(vocab: Any, token: int, *, special: bool) -> bytes:
    """A token's bytes; control tokens have some only with `special`."""
    room = 64
    while True:
        buffer = ctypes.create_string_buffer(room)
        length = llama.llama_token_to_piece(vocab, token, buffer, room, 0, special)
        if length >= 0:
            return buffer.raw[:length]
        room = -length
