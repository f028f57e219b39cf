"""Asks a running inference service every task, greedily."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference.measuring.scoring import Answer
from farthing.inference.measuring.tasks import Task
from farthing.kit.errors import FailedPrecondition, InvalidArgument
from farthing.kit.rpc.channel import decode_error

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
}
_TIMEOUT_S = 600.0


async def find_served(channel: grpc.aio.Channel, digest: str, address: str) -> pb.ModelInfo:
    """What the service says of the model with this digest. FailedPrecondition when it serves another one."""
    stub = pb_grpc.InferenceServiceStub(channel)
    try:
        answer = await stub.ListModels(pb.ListModelsRequest(), timeout=10.0)
    except grpc.aio.AioRpcError as error:
        raise decode_error(error) from error
    for info in answer.models:
        if info.digest == digest:
            return info
    served = (
        ", ".join(f"{info.name} ({info.digest[:12]}…)" for info in answer.models) or "nothing"
    )
    raise FailedPrecondition(
        f"{address} does not serve this model but {served}; give the address of a service that does, or leave "
        "--address out",
        reason="MODEL_NOT_SERVED",
        metadata={"digest": digest, "address": address},
    )


async def ask_all(
    channel: grpc.aio.Channel,
    model: str,
    tasks: Sequence[Task],
    *,
    max_tokens: int,
    concurrency: int,
    on_answer: Callable[[Answer], None],
) -> dict[str, Answer]:
    """Every task's answer by id. A task that the service refuses (too long) counts as answered with nothing.

    Other errors as the service raised them. Speeds are those of one request alone only with a concurrency of 1.
    """
    stub = pb_grpc.InferenceServiceStub(channel)
    places = asyncio.Semaphore(concurrency)
    answers: dict[str, Answer] = {}

    async def ask(task: Task) -> None:
        async with places:
            answer = await _ask(stub, model, task, max_tokens)
        answers[task.id] = answer
        on_answer(answer)

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(ask(task))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return answers


async def _ask(stub: Any, model: str, task: Task, max_tokens: int) -> Answer:
    request = pb.GenerateRequest(
        request_id=f"measure-{task.id}",
        model=model,
        input=pb.GenerationInput(
            messages=[
                pb.Message(role=_ROLES[role], content=[pb.ContentPart(text=content)])
                for role, content in task.messages
            ],
            prompt=task.prompt,
            max_tokens=max_tokens,
            sampling=pb.SamplingParams(temperature=0.0),
        ),
    )
    try:
        response = await stub.Complete(pb.CompleteRequest(request=request), timeout=_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        found = decode_error(error)
        if isinstance(found, InvalidArgument):
            return Answer(task.id, "", refused=True)
        raise found from error
    usage = response.completion.usage
    return Answer(
        task_id=task.id,
        text=response.text,
        computed_token_count=usage.input_token_count - usage.cached_input_token_count,
        output_token_count=usage.output_token_count,
        prefill_us=usage.prefill_us,
        decode_us=usage.decode_us,
    )
