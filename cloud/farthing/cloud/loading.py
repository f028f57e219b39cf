"""Opens a model's graph for the batch engine: in slot form where it can be brought into it, else as it is."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from farthing.cloud.conversions import Conversions, Refusal
from farthing.cloud.core.budget import MemoryNeed
from farthing.cloud.core.rows import Rows
from farthing.cloud.graph.convert import GRAPH_NAME, SlotGraph
from farthing.cloud.graph.document import NotConvertible
from farthing.cloud.graph.facts import graph_signature
from farthing.cloud.machine_memory import available_bytes
from farthing.cloud.plan import LoadPlan
from farthing.cloud.runtime import Device, OpenedSession, open_session
from farthing.cloud.slots.adapt import adapted
from farthing.cloud.slots.device import DeviceMemory
from farthing.cloud.slots.engine import SlotEngine
from farthing.cloud.slots.memory import CacheShape, HostMemory, SlotMemory
from farthing.cloud.slots.plain import PlainEngine
from farthing.cloud.slots.runs import GraphForm
from farthing.inference.batch_backend import SlotLayout
from farthing.inference.store.onnx_folder import ModelConfig
from farthing.inference.store.onnx_signature import DecoderSignature
from farthing.kit.errors import FailedPrecondition

_LOGGER = logging.getLogger("farthing.cloud")

# A chunk takes a GPU a few milliseconds at either size. On a CPU the scheduler keeps steps as short as their rows want
# them; what a step cannot take of a prompt costs another pass over all weights, so that several should fit.
CHUNK_TOKEN_COUNTS: dict[Device, int] = {"cpu": 256, "cuda": 512}
# What a CPU gains from more rows has flattened out by 16; a GPU computes 64 in nearly the time of one.
SLOT_COUNTS: dict[Device, int] = {"cpu": 16, "cuda": 64}
# Rows end this many tokens behind the last one a slot may hold: idle rows of a step write there.
_ROW_ALIGNMENT = 8
# Share of the free memory that slots take when nobody set a limit.
_FREE_MEMORY_RATIO = 0.75
# An idle row costs about 2 operations a weight; copying a byte costs about as much as 16 of those.
_WEIGHT_BYTES_PER_COPIED_BYTE = 16


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A graph that is ready to compute. `how` tells in which form, for the log; `kept` holds what must not go."""

    engine: SlotEngine | PlainEngine
    opened: OpenedSession
    layout: SlotLayout
    vocab_size: int
    weights_bytes: int
    how: str
    kept: ExitStack


def load_engine(
    plan: LoadPlan,
    graph: Path,
    config: ModelConfig,
    fallback_vocab: int,
    *,
    device_tensors: bool = False,
) -> LoadedEngine:
    """Opens the graph. FailedPrecondition, InvalidArgument or Unimplemented say what is wrong with it.

    `fallback_vocab` is the vocabulary's size where neither graph nor config.json tells it. `device_tensors` makes the
    CPU keep its slots as a GPU does, in the library's tensors.
    """
    context = min(filter(None, (config.context_length, plan.context_length)), default=0)
    if not context:
        raise FailedPrecondition(
            f"{plan.name} does not say its context length; set FARTHING_CLOUD_CONTEXT",
            reason="MODEL_INCOMPLETE",
            metadata={"model": plan.name},
        )
    with ExitStack() as stack:
        folder = plan.conversion_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="farthing-slots-"))
        )
        form: SlotGraph | Refusal
        signature: DecoderSignature | None = None
        try:
            signature = graph_signature(graph, config)
            form = Conversions(folder).slot_form(
                graph, plan.digest, signature, config.context_length or context
            )
        except NotConvertible as error:
            form = Refusal(str(error))
        if isinstance(form, Refusal):
            _LOGGER.warning(
                "the graph stays in its own form: requests are computed one after the other",
                extra={"model": plan.name, "finding": form.finding},
            )
            loaded = _load_plain(plan, graph, signature, config, context, fallback_vocab, form)
        else:
            loaded = _load_slots(plan, form, min(context, form.position_count), device_tensors)
        return replace(loaded, kept=stack.pop_all())


def _load_slots(
    plan: LoadPlan, form: SlotGraph, context: int, device_tensors: bool
) -> LoadedEngine:
    opened, dtype, is_mixed = _open_slots(plan, form, device_tensors)
    shape = CacheShape(
        layers=form.layers,
        rows=0,
        heads=form.kv_heads,
        tokens=-(-(context + 1) // _ROW_ALIGNMENT) * _ROW_ALIGNMENT,
        dimension=form.head_dimension,
        dtype=dtype,
    )
    weight_bytes = sum(p.stat().st_size for p in form.folder.rglob("*") if p.is_file())
    need = MemoryNeed(
        fixed_bytes=weight_bytes,
        row_bytes=shape.tokens * shape.token_bytes + 4 * form.vocab_size,
    )
    slot_count = _slot_count(plan, need, opened.device)
    rows = Rows(
        slot_count,
        tokens_per_idle_row=weight_bytes // (_WEIGHT_BYTES_PER_COPIED_BYTE * shape.token_bytes),
    )
    shape = replace(shape, rows=rows.row_count)
    engine = SlotEngine(
        opened.session,
        _memory(opened, shape, device_tensors),
        rows,
        vocab_size=form.vocab_size,
        form=GraphForm(form.has_position_ids, is_mixed),
    )
    layout = _layout(
        plan,
        opened.device,
        slot_count,
        context,
        shape.token_bytes,
        groups_prompts=True,
        mixes_prompts=is_mixed,
    )
    return LoadedEngine(
        engine, opened, layout, form.vocab_size, weight_bytes, form.how, ExitStack()
    )


def _open_slots(
    plan: LoadPlan, form: SlotGraph, device_tensors: bool
) -> tuple[OpenedSession, str, bool]:
    """The session, the cache's precision, and whether runs are mixed.

    CUDA's attention takes float16 alone, and steps of single tokens are recorded there, which no graph with a choice
    in it can be; whether mixed runs would be worth more has not been measured.
    """
    graph = form.folder / GRAPH_NAME
    why_not = ""
    is_wide = form.dtype == "float32"
    if plan.device != "cpu":
        try:
            opened = open_session(
                adapted(graph, half_cache=is_wide, best_in_graph=True, mixed=False),
                wish="cuda",
                thread_count=plan.thread_count,
                weights_folder=form.folder,
                records_graphs=plan.cuda_graphs,
            )
        except FailedPrecondition as error:
            if plan.device == "cuda" or error.reason != "GPU_REQUIRED":
                raise
            why_not = error.metadata["finding"]
        else:
            return opened, "float16", False
    half = is_wide and plan.kv_type == "fp16"
    is_mixed = form.can_mix and not device_tensors
    opened = open_session(
        adapted(graph, half_cache=half, best_in_graph=device_tensors, mixed=is_mixed),
        wish="cpu",
        thread_count=plan.thread_count,
        weights_folder=form.folder,
    )
    dtype = "float16" if half else form.dtype
    return replace(opened, why_not_cuda=why_not), dtype, is_mixed


def _memory(opened: OpenedSession, shape: CacheShape, device_tensors: bool) -> SlotMemory:
    if opened.device == "cpu" and not device_tensors:
        return HostMemory(shape)

    def open_small(graph: bytes) -> object:
        return open_session(graph, wish=opened.device, thread_count=1).session

    return DeviceMemory(shape, opened.runtime, open_small, opened.device)


def _load_plain(
    plan: LoadPlan,
    graph: Path,
    signature: DecoderSignature | None,
    config: ModelConfig,
    context: int,
    fallback_vocab: int,
    refusal: Refusal,
) -> LoadedEngine:
    opened = open_session(graph, wish=plan.device, thread_count=plan.thread_count)
    if signature is None:  # the library opens what the parser of the converter does not
        raise FailedPrecondition(
            f"{graph.name} cannot be examined: {refusal.finding}; export the model again",
            reason="MODEL_CORRUPT",
            metadata={"path": str(graph)},
        )
    vocab_size = signature.vocab_size or config.vocab_size or fallback_vocab
    token_bytes = signature.cache_bytes_per_token
    need = MemoryNeed(fixed_bytes=graph.stat().st_size, row_bytes=context * token_bytes)
    slot_count = _slot_count(plan, need, opened.device)
    engine = PlainEngine(
        opened.session,
        opened.runtime,
        opened.device,
        signature,
        slot_count=slot_count,
        vocab_size=vocab_size,
    )
    layout = _layout(plan, opened.device, slot_count, context, token_bytes)
    how = f"its own form, a request at a time ({refusal.finding})"
    return LoadedEngine(
        engine, opened, layout, vocab_size, graph.stat().st_size, how, ExitStack()
    )


def _slot_count(plan: LoadPlan, need: MemoryNeed, device: Device) -> int:
    """As many as wished, or the device's usual number as far as memory goes."""
    limit = plan.memory_limit_bytes
    wished = plan.slot_count or SLOT_COUNTS[device]
    if not limit:
        if plan.slot_count:
            return wished
        room = int(available_bytes(device) * _FREE_MEMORY_RATIO)
        return max(1, min(wished, need.slots_within(room))) if room else wished
    fitting = need.slots_within(limit)
    least = plan.slot_count or 1
    if fitting < least:
        raise FailedPrecondition(
            f"{plan.name} needs {need.total_bytes(least)} bytes for its weights and {least} slots, and the limit is "
            f"{limit}; raise FARTHING_CLOUD_MEMORY_LIMIT_BYTES, or lower FARTHING_CLOUD_SLOTS or "
            "FARTHING_CLOUD_CONTEXT",
            reason="MEMORY_LIMIT_EXCEEDED",
            metadata={
                "model": plan.name,
                "needed_bytes": str(need.total_bytes(least)),
                "limit_bytes": str(limit),
            },
        )
    return min(wished, fitting)


def _layout(
    plan: LoadPlan,
    device: Device,
    slot_count: int,
    context: int,
    token_bytes: int,
    *,
    groups_prompts: bool = False,
    mixes_prompts: bool = False,
) -> SlotLayout:
    chunk = CHUNK_TOKEN_COUNTS[device]
    return SlotLayout(
        slot_count=slot_count,
        slot_token_capacity=context,
        token_capacity=slot_count * context,
        step_token_capacity=max(slot_count + 1, plan.step_token_capacity or chunk + slot_count),
        token_bytes=token_bytes,
        groups_prompts=groups_prompts,
        mixes_prompts=mixes_prompts,
    )
