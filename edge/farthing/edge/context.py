"""Opens a llama.cpp context with its slots. Imports llama_cpp."""

from __future__ import annotations

from typing import Any

import llama_cpp as llama

from farthing.edge.llama_model import LlamaModel
from farthing.edge.plan import Choice, KvType, LoadPlan
from farthing.edge.shape import ContextShape
from farthing.edge.stop_flag import StopFlag
from farthing.kit.errors import FailedPrecondition

_GGML_TYPES: dict[KvType, int] = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}
_ATTENTION_TYPES: dict[Choice, int] = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


def open_context(
    weights: LlamaModel, shape: ContextShape, plan: LoadPlan, stop_flag: StopFlag
) -> Any:
    """Raises FailedPrecondition with llama.cpp's own words when it cannot."""
    if shape.is_shared and weights.window_token_count:
        raise FailedPrecondition(
            f"{plan.name} has layers with a sliding window, whose tokens llama.cpp may drop too"
            " early when slots share their memory. Set FARTHING_EDGE_SHARED_KV to false.",
            reason="CONTEXT_UNAVAILABLE",
            metadata={"model": plan.name},
        )
    params = llama.llama_context_default_params()
    params.n_ctx = shape.cell_count
    params.n_batch = params.n_ubatch = shape.step_token_capacity
    params.n_seq_max = shape.slot_count + int(shape.is_shared)  # one more: the spare of Slots
    params.kv_unified = shape.is_shared
    # The whole past of a window is kept, so that a slot can be cut back to an earlier place.
    params.swa_full = True
    params.type_k = params.type_v = _GGML_TYPES[plan.kv_type]
    params.flash_attn_type = _ATTENTION_TYPES[shape.flash_attention]
    params.n_threads = params.n_threads_batch = plan.thread_count
    params.no_perf = True
    params.abort_callback = stop_flag.callback
    params.abort_callback_data = stop_flag.address
    weights.log.forget()
    context = llama.llama_init_from_model(weights.handle, params)
    if not context:
        problem = weights.log.last_error() or "no reason given"
        raise FailedPrecondition(
            f"llama.cpp cannot open a context of {shape.slot_count} slots with"
            f" {shape.slot_token_capacity} tokens each: {problem}. Set FARTHING_EDGE_CONTEXT or"
            " FARTHING_EDGE_SLOTS to less.",
            reason="CONTEXT_UNAVAILABLE",
            metadata={
                "context_length": str(shape.slot_token_capacity),
                "slot_count": str(shape.slot_count),
            },
        )
    return context
