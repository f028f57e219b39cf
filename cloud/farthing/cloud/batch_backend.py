"""The seam to ONNX Runtime for many sequences in one step: opens a model folder and gives it slots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farthing.cloud.codec import OrtCodec
from farthing.cloud.plan import LoadPlan
from farthing.cloud.runtime import OpenedSession
from farthing.cloud.slots.engine import SavedRow, SlotEngine
from farthing.cloud.slots.options import StepOptions
from farthing.cloud.slots.plain import PlainEngine, SavedSequence
from farthing.inference.batch_backend import (
    Interrupted,
    SavedSlot,
    SlotLayout,
    SlotWork,
    StepOutput,
)
from farthing.inference.model import Capability, ModelDescription
from farthing.inference.store.onnx_folder import find_graph, folder_of, read_config
from farthing.inference.store.onnx_weights import read_weights
from farthing.kit.errors import FailedPrecondition, Internal, Unimplemented

if TYPE_CHECKING:
    from farthing.cloud.loading import LoadedEngine


class OrtBatchBackend:
    """Implements BatchBackend over ONNX Runtime, on CUDA or the CPU."""

    def __init__(self, plan: LoadPlan, *, device_tensors: bool = False) -> None:
        """Opens the model; a graph that is met for the first time is brought into slot form before.

        FailedPrecondition, InvalidArgument, ResourceExhausted or Unimplemented say what is wrong. `device_tensors`
        makes the CPU keep its slots as a GPU does, to try that way without one.
        """
        graph = find_graph(plan.path)
        config = read_config(folder_of(graph))
        self.codec = OrtCodec(folder_of(graph), plan.name, config.eos_ids)
        self._loaded = _load(plan, graph, self.codec, device_tensors)
        self._engine: SlotEngine | PlainEngine | None = self._loaded.engine
        self._cuda_graphs = plan.cuda_graphs and self._loaded.opened.device == "cuda"
        self._options = self._new_options()
        self._model = _describe(
            plan, graph, self.codec, self._loaded.layout, self._loaded.vocab_size
        )

    @property
    def model(self) -> ModelDescription:
        """See BatchBackend."""
        return self._model

    @property
    def layout(self) -> SlotLayout:
        """See BatchBackend."""
        return self._loaded.layout

    @property
    def opened(self) -> OpenedSession:
        """The session and the device it runs on."""
        return self._loaded.opened

    @property
    def weights_bytes(self) -> int:
        """Size of the model's files."""
        return self._loaded.weights_bytes

    @property
    def how(self) -> str:
        """In which form the graph computes, for the log."""
        return self._loaded.how

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> StepOutput:
        """See BatchBackend. Unimplemented for any adapter."""
        if adapter:
            raise Unimplemented(
                f"{self._model.name} runs on an engine without adapters; leave the adapter out",
                reason="ADAPTER_UNSUPPORTED",
                metadata={"model": self._model.name, "adapter": adapter},
            )
        engine, options = self._running(), self._options
        self._check(engine, work)
        try:
            if options.terminated:
                raise Interrupted
            return engine.step(work, options)
        except Interrupted:
            raise
        except (
            Exception
        ) as error:  # the library raises its own classes, straight from Exception
            if options.terminated:
                raise Interrupted from error
            raise _step_failed(str(error)) from error

    def trim(self, slot: int, token_count: int) -> None:
        """See BatchBackend."""
        self._running().trim(slot, token_count)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See BatchBackend."""
        self._running().copy(source, target, token_count)

    def save(self, slot: int, token_count: int) -> SavedSlot:
        """See BatchBackend."""
        return self._running().save(slot, token_count)

    def restore(self, slot: int, saved: SavedSlot) -> None:
        """See BatchBackend."""
        engine = self._running()
        if isinstance(engine, SlotEngine):
            assert isinstance(saved, SavedRow)
            engine.restore(slot, saved)
        else:
            assert isinstance(saved, SavedSequence)
            engine.restore(slot, saved)

    def reset(self) -> None:
        """See BatchBackend."""
        self._options = self._new_options()
        self._running().reset()

    def interrupt(self) -> None:
        """See BatchBackend."""
        self._options.terminate()

    def close(self) -> None:
        """See BatchBackend."""
        self._engine = None
        self._loaded.kept.close()

    def _running(self) -> SlotEngine | PlainEngine:
        if self._engine is None:
            raise _step_failed("the model is closed")
        return self._engine

    def _new_options(self) -> StepOptions:
        return StepOptions(self._loaded.opened.runtime, records_graphs=self._cuda_graphs)

    def _check(self, engine: SlotEngine | PlainEngine, work: Sequence[SlotWork]) -> None:
        """The library would write beyond a slot's memory without a word."""
        capacity, held = self._loaded.layout.slot_token_capacity, engine.held
        for one in work:
            if one.start > held[one.slot] or one.start + len(one.tokens) > capacity:
                raise _step_failed(
                    f"slot {one.slot} holds {held[one.slot]} of {capacity} tokens and was given "
                    f"{len(one.tokens)} from {one.start} on"
                )


def _load(plan: LoadPlan, graph: Path, codec: OrtCodec, device_tensors: bool) -> LoadedEngine:
    """Rewriting graphs needs the onnx package, and the rest of this module does not."""
    try:
        from farthing.cloud.loading import load_engine
    except ImportError as error:
        raise FailedPrecondition(
            f"the cloud tier needs the onnx package ({error}): pip install 'farthing[cloud]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "cloud"},
        ) from None
    config = read_config(folder_of(graph))
    return load_engine(plan, graph, config, codec.vocab_size, device_tensors=device_tensors)


def _step_failed(finding: str) -> Internal:
    return Internal(
        f"the engine failed at this step: {finding}",
        reason="ENGINE_STEP_FAILED",
        metadata={"finding": finding[:500]},
    )


def _describe(
    plan: LoadPlan, graph: Path, codec: OrtCodec, layout: SlotLayout, vocab_size: int
) -> ModelDescription:
    card = plan.card
    weights = read_weights(graph)
    chat = {Capability.CHAT} if codec.takes_messages else set()
    return ModelDescription(
        name=plan.name,
        digest=plan.digest,
        format="onnx",
        quantization=weights.precision,
        parameter_count=card.parameter_count or weights.parameter_count,
        context_length=layout.slot_token_capacity,
        vocab_size=vocab_size,
        bos_ids=codec.bos_ids,
        eos_ids=codec.eos_ids,
        capabilities=frozenset({Capability.LOGPROBS, Capability.JSON_SCHEMA} | chat),
        qualities=card.qualities,
        bytes_per_token=card.bytes_per_token,
    )
