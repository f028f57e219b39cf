"""A GGUF model in llama.cpp: its weights and metadata. Imports llama_cpp."""

from __future__ import annotations

import ctypes
import weakref
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


class LlamaModel:
    """Loaded weights. The file stays mapped, so that processes share its pages.

    Contexts, codecs and embedders use the same weights and keep a reference to this object;
    the weights are freed with the last one.
    """

    def __init__(self, path: Path, log: LibraryLog) -> None:
        """Raises FailedPrecondition with llama.cpp's own words when it cannot load the file."""
        log.attach()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        log.forget()
        self.log = log
        self.handle: Any = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise FailedPrecondition(
                f"llama.cpp cannot load {path.name}: {log.last_error() or 'no reason given'}."
                " Download or convert the model again.",
                reason="MODEL_UNREADABLE",
                metadata={"path": str(path)},
            )
        self.vocab: Any = llama.llama_model_get_vocab(self.handle)
        # Not at the interpreter's end: contexts may be alive then, and the system frees all.
        weakref.finalize(self, llama.llama_model_free, self.handle).atexit = False

    @property
    def train_context_length(self) -> int:
        """What the file says, 0 when it says nothing or nonsense."""
        return max(0, int(llama.llama_model_n_ctx_train(self.handle)))

    @property
    def parameter_count(self) -> int:
        return int(llama.llama_model_n_params(self.handle))

    @property
    def vocab_size(self) -> int:
        return int(llama.llama_vocab_n_tokens(self.vocab))

    @property
    def size_bytes(self) -> int:
        """The weights in memory."""
        return int(llama.llama_model_size(self.handle))

    @property
    def embedding_size(self) -> int:
        """Numbers in one embedding."""
        return int(llama.llama_model_n_embd_out(self.handle))

    @property
    def window_token_count(self) -> int:
        """Tokens that layers with a sliding window look back on, 0 when there are none."""
        return int(llama.llama_model_n_swa(self.handle))

    @property
    def has_recurrent_state(self) -> bool:
        """Whether some layers keep a state of fixed size that cannot be wound back."""
        return bool(
            llama.llama_model_is_recurrent(self.handle)
            or llama.llama_model_is_hybrid(self.handle)
        )

    @property
    def cell_header_bytes(self) -> int:
        """What llama.cpp writes for a token into a saved state beside its keys and values.

        Position, count of sequences, sequence; with positions in a picture three numbers more;
        and all of it once more for the layers with a window.
        """
        rope = llama.llama_model_rope_type(self.handle)
        pictures = rope in (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
        return (24 if pictures else 12) * (2 if self.window_token_count else 1)

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
