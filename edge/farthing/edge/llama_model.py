"""A GGUF model in llama.cpp: its weights, vocabulary and metadata. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as llama

from farthing.edge.llama_log import LibraryLog
from farthing.kit.errors import FailedPrecondition

_METADATA_BYTES = 1 << 20  # chat templates are the longest values, and stay far below
_FILE_TYPES = {
    getattr(llama, name): name.removeprefix("LLAMA_FTYPE_MOSTLY_").removeprefix(
        "LLAMA_FTYPE_ALL_"
    )
    for name in dir(llama)
    if name.startswith(("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"))
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the tokens of a model are. `pieces` are their bytes in an answer."""

    handle: Any
    size: int
    bos_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    special_texts: frozenset[str]
    pieces: dict[int, bytes] = field(default_factory=dict)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See Backend."""
        data = text.encode()
        if not data:
            return []
        room = (
            len(data) + 16
        )  # no tokenizer makes more tokens than bytes, give or take a prefix
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.handle, data, len(data), tokens, room, False, special)
        if count < 0:
            tokens = (llama.llama_token * -count)()
            count = llama.llama_tokenize(
                self.handle, data, len(data), tokens, -count, False, special
            )
        return list(tokens[:count])

    def token_bytes(self, token: int) -> bytes:
        """See Backend."""
        piece = self.pieces.get(token)
        if piece is None:
            piece = self.pieces[token] = read_piece(self.handle, token, special=False)
        return piece

    def control_text(self, token: int) -> str:
        """A token as templates write it; "" for a token that the model does not have."""
        if token < 0:
            return ""
        return read_piece(self.handle, token, special=True).decode("utf-8", "replace")


class LlamaModel:
    """Loaded weights. The file stays mapped, so that processes share its pages."""

    def __init__(self, path: Path, log: LibraryLog) -> None:
        """Raises FailedPrecondition with llama.cpp's own words when it cannot load the file."""
        log.attach()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        log.forget()
        self.handle: Any = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise FailedPrecondition(
                f"llama.cpp cannot load {path.name}: {log.last_error() or 'no reason given'}."
                " Download or convert the model again.",
                reason="MODEL_UNREADABLE",
                metadata={"path": str(path)},
            )
        self.vocabulary = _read_vocabulary(llama.llama_model_get_vocab(self.handle))

    @property
    def train_context_length(self) -> int:
        return int(llama.llama_model_n_ctx_train(self.handle))

    @property
    def parameter_count(self) -> int:
        return int(llama.llama_model_n_params(self.handle))

    @property
    def quantization(self) -> str:
        """The file's quantization, e.g. "Q8_0"; "" when the file does not say."""
        number = self.metadata("general.file_type")
        return _FILE_TYPES.get(int(number), "") if number.isdigit() else ""

    @property
    def chat_template(self) -> str:
        """Jinja source, "" when the model has none."""
        source = llama.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else ""

    def metadata(self, key: str) -> str:
        """A value of the file's header as text, "" when it is not there."""
        buffer = ctypes.create_string_buffer(_METADATA_BYTES)
        length = llama.llama_model_meta_val_str(
            self.handle,
            key.encode(),
            buffer,
            _METADATA_BYTES,
        )
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def close(self) -> None:
        """Frees the weights. Idempotent."""
        if self.handle:
            llama.llama_model_free(self.handle)
            self.handle = None


def read_piece(vocab: Any, token: int, *, special: bool) -> bytes:
    """A token's bytes; control tokens have some only with `special`."""
    room = 64
    while True:
        buffer = ctypes.create_string_buffer(room)
        length = llama.llama_token_to_piece(vocab, token, buffer, room, 0, special)
        if length >= 0:
            return buffer.raw[:length]
        room = -length


def _read_vocabulary(vocab: Any) -> Vocabulary:
    size = int(llama.llama_vocab_n_tokens(vocab))
    bos = int(llama.llama_vocab_bos(vocab))
    starts = llama.llama_vocab_get_add_bos(vocab) and bos >= 0
    controls = (one for one in range(size) if llama.llama_vocab_is_control(vocab, one))
    texts = (read_piece(vocab, one, special=True) for one in controls)
    return Vocabulary(
        handle=vocab,
        size=size,
        bos_ids=(bos,) if starts else (),
        eos_ids=frozenset(one for one in range(size) if llama.llama_vocab_is_eog(vocab, one)),
        special_texts=frozenset(text.decode("utf-8", "replace") for text in texts if text),
    )
