"""LoRA adapters of a loaded model. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama

from farthing.edge.llama_model import LlamaModel
from farthing.edge.plan import Adapter
from farthing.kit.errors import FailedPrecondition, Internal


class AdapterSet:
    """Adapters by name; the model frees them with itself. The empty name is no adapter."""

    def __init__(self, weights: LlamaModel, adapters: Sequence[Adapter]) -> None:
        """Loads each file. Raises FailedPrecondition with llama.cpp's words when one does not fit the model."""
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._used = ""
        for one in adapters:
            weights.log.forget()
            handle = llama.llama_adapter_lora_init(weights.handle, str(one.path).encode())
            if not handle:
                raise FailedPrecondition(
                    f"llama.cpp cannot load the adapter {one.name} from {one.path.name}:"
                    f" {weights.log.last_error() or 'no reason given'}. Use a LoRA adapter in GGUF"
                    " that was made for this model.",
                    reason="ADAPTER_UNREADABLE",
                    metadata={"adapter": one.name, "path": str(one.path)},
                )
            handles = (llama.llama_adapter_lora_p_ctypes * 1)(handle)
            self._loaded[one.name] = handles, (ctypes.c_float * 1)(one.scale)

    @property
    def names(self) -> frozenset[str]:
        """What `use` knows, besides the empty name."""
        return frozenset(self._loaded)

    def use(self, context: Any, name: str) -> None:
        """Makes the next steps of the context use this adapter. Raises Internal for a name that is not known."""
        if name == self._used:
            # A change makes the library plan its graphs anew, which takes milliseconds.
            return
        if name == "":
            code = llama.llama_set_adapters_lora(context, None, 0, None)
        elif name in self._loaded:
            handles, scales = self._loaded[name]
            code = llama.llama_set_adapters_lora(context, handles, 1, scales)
        else:
            raise Internal(
                f"A step named the adapter {name}, which is not loaded.",
                reason="ENGINE_STEP_FAILED",
                metadata={"adapter": name},
            )
        if code != 0:
            raise Internal(
                f"llama.cpp could not switch to the adapter {name!r} (code {code}).",
                reason="ENGINE_STEP_FAILED",
                metadata={"adapter": name, "code": str(code)},
            )
        self._used = name
