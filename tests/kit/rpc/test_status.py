"""Every domain error survives the wire: same class, reason, metadata, field and waiting time."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.support.probe_servicer import ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.kit import errors
from farthing.kit.rpc.status import STATUS_METADATA_KEY, decode_error
from farthing.kit.settings import SettingsError
from farthing.kit.testing import serve

DETAILS = {"node": "organisation:acme", "näme": "wörth"}
RAISED: list[tuple[errors.FarthingError, grpc.StatusCode]] = [
    (
        errors.InvalidArgument("max_tokens is -1", field="input.max_tokens"),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    *(
        (cls("said so: ü €", reason="A_REASON", metadata=DETAILS, retry_after_ms=1500), code)
        for cls, code in (
            (errors.NotFound, grpc.StatusCode.NOT_FOUND),
            (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
            (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
            (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
            (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
            (errors.ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
            (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
            (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
            (errors.Cancelled, grpc.StatusCode.CANCELLED),
            (errors.Aborted, grpc.StatusCode.ABORTED),
            (errors.Unimplemented, grpc.StatusCode.UNIMPLEMENTED),
            (errors.Internal, grpc.StatusCode.INTERNAL),
        )
    ),
]
REQUEST = pb.ListModelsRequest()


async def fail_with(error: BaseException) -> grpc.aio.AioRpcError:
    """Raise in a handler, catch at the client."""

    async def handler() -> pb.ListModelsResponse:
        raise error

    servicer = ProbeServicer(handler)
    async with serve((pb_grpc.add_InferenceServiceServicer_to_server, servicer)) as (
        channel,
        _,
    ):
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(REQUEST, timeout=10)
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The rich status' details by message name."""
    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA_KEY:
            assert isinstance(value, bytes)
            for packed in status_pb2.Status.FromString(value).details:
                name = packed.TypeName().rpartition(".")[2]
                assert name not in found, f"{name} twice"
                found[name] = getattr(error_details_pb2, name).FromString(packed.value)
    return found


def test_the_list_here_is_the_whole_family() -> None:
    family = set(errors.FarthingError.__subclasses__()) - {SettingsError}
    ours = {cls for cls in family if cls.__module__ == errors.__name__}
    assert {type(error) for error, _ in RAISED} == ours


@pytest.mark.parametrize(
    ("error", "code"), RAISED, ids=[type(error).__name__ for error, _ in RAISED]
)
async def test_an_error_arrives_as_it_was_raised(
    error: errors.FarthingError, code: grpc.StatusCode
) -> None:
    caught = await fail_with(error)
    assert caught.code() is code
    assert caught.details() == error.message
    info = details_of(caught)["ErrorInfo"]
    assert (info.domain, info.reason) == ("farthing", error.reason)
    assert dict(info.metadata) == error.metadata

    back = decode_error(caught)
    assert type(back) is type(error)
    assert back.message == error.message
    assert back.reason == error.reason
    assert back.metadata == error.metadata
    assert back.retry_after_ms == error.retry_after_ms


async def test_a_bad_field_is_also_a_field_violation() -> None:
    caught = await fail_with(errors.InvalidArgument("x is wrong; write 1", field="input.x"))
    (violation,) = details_of(caught)["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("input.x", "x is wrong; write 1")
    back = decode_error(caught)
    assert isinstance(back, errors.InvalidArgument)
    assert back.field == "input.x"


async def test_only_errors_worth_waiting_for_say_how_long() -> None:
    waiting = details_of(
        await fail_with(errors.Unavailable("full", reason="FULL", retry_after_ms=250))
    )
    assert waiting["RetryInfo"].retry_delay.ToMilliseconds() == 250
    assert "RetryInfo" not in details_of(await fail_with(errors.NotFound("no", reason="NO")))


async def test_a_relative_of_a_listed_error_takes_its_code() -> None:
    class QueueFull(errors.ResourceExhausted):
        """More exact than the table."""

    caught = await fail_with(QueueFull("full", reason="QUEUE_FULL"))
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert decode_error(caught).reason == "QUEUE_FULL"


async def test_an_error_outside_the_table_is_internal_but_keeps_its_reason() -> None:
    caught = await fail_with(SettingsError("bad", env="FARTHING_X"))
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert decode_error(caught).reason == "INVALID_SETTING"


async def test_an_error_with_much_to_say_still_arrives_as_itself() -> None:
    # Status travels in headers, of which clients take 8 KiB by default.
    many = {f"model-{n}@instance-{n}": "the instance is ejected €" * 4 for n in range(200)}
    error = errors.FailedPrecondition(
        "; ".join(f"{name}: {why}" for name, why in many.items()),
        reason="NO_CANDIDATE",
        metadata=many,
    )
    caught = await fail_with(error)
    assert caught.code() is grpc.StatusCode.FAILED_PRECONDITION
    back = decode_error(caught)
    assert back.reason == "NO_CANDIDATE"
    assert back.message.startswith("model-0@instance-0: the instance is ejected")
    assert back.message.endswith("…")
    assert back.metadata
    assert back.metadata.items() <= many.items()


async def test_a_long_message_about_a_field_still_arrives_as_itself() -> None:
    caught = await fail_with(errors.InvalidArgument("€" * 20_000, field="input.x"))
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught)["BadRequest"].field_violations[0].field == "input.x"


def test_a_failure_that_no_farthing_service_raised_keeps_code_and_text() -> None:
    for code, cls in (
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.DATA_LOSS, errors.Internal),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
    ):
        foreign = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="lost"
        )
        back = decode_error(foreign)
        assert type(back) is cls
        assert (back.message, back.reason) == ("lost", f"GRPC_{code.name}")
        assert back.retry_after_ms == 0


def test_details_of_other_domains_are_not_taken_for_ours() -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="THEIRS", domain="example"))
    trailing = grpc.aio.Metadata((STATUS_METADATA_KEY, status.SerializeToString()))
    foreign = grpc.aio.AioRpcError(
        grpc.StatusCode.ABORTED, grpc.aio.Metadata(), trailing, details="x"
    )
    assert decode_error(foreign).reason == "GRPC_ABORTED"


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"not a status"])
def test_details_that_cannot_be_read_do_not_hide_the_failure(garbage: bytes) -> None:
    trailing = grpc.aio.Metadata((STATUS_METADATA_KEY, garbage))
    foreign = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, details="gone"
    )
    back = decode_error(foreign)
    assert isinstance(back, errors.NotFound)
    assert back.reason == "GRPC_NOT_FOUND"
