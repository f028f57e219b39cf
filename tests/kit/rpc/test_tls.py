"""Mutual TLS: who has a certificate of our authority gets in, nobody else; half a configuration is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.certificates import Authority, needs_openssl
from tests.support.probe_servicer import ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.rpc.tls import TlsFiles, read_tls_files
from farthing.kit.settings import ServiceSettings, SettingsError
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


async def call(address: str, tls: TlsFiles | None) -> int:
    async with open_channel(address, tls=tls) as channel:
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        response = await stub.ListModels(pb.ListModelsRequest(), timeout=10)
        return len(response.models)


@needs_openssl
async def test_peers_of_one_authority_talk_and_all_others_are_turned_away(
    authority: Authority, tmp_path: Path
) -> None:
    async def answer() -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.ModelInfo(name="secret")])

    ours = read_tls_files(authority.issue("server"))
    friend = read_tls_files(authority.issue("client"))
    stranger = read_tls_files(Authority(tmp_path / "theirs").issue("client"))
    assert ours is not None
    assert friend is not None
    assert stranger is not None
    server = RpcServer(
        "127.0.0.1:0", recorder=NullRecorder(), metrics=Metrics("tls"), tls=ours, drain_ms=0
    )
    server.add(pb_grpc.add_InferenceServiceServicer_to_server, ProbeServicer(answer))
    await server.start()
    address = f"127.0.0.1:{server.port}"
    try:
        assert await call(address, friend) == 1
        impostor = TlsFiles(stranger.certificate, stranger.key, ours.authority)
        for tls in (None, stranger, impostor):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(address, tls)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop()


def test_without_any_file_there_is_no_tls() -> None:
    assert read_tls_files(ServiceSettings()) is None


@pytest.mark.parametrize("given", ["cert", "key", "ca"])
def test_some_of_the_three_files_is_worse_than_none(given: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pem"
    path.write_text("x")
    files: dict[str, Any] = {f"tls_{given}_file": path}
    settings = ServiceSettings(**files)
    with pytest.raises(SettingsError, match=r"FARTHING_TLS_.*_FILE is missing") as caught:
        read_tls_files(settings)
    assert caught.value.metadata["env"] != f"FARTHING_TLS_{given.upper()}_FILE"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    settings = ServiceSettings(tls_cert_file=missing, tls_key_file=missing, tls_ca_file=missing)
    with pytest.raises(SettingsError, match=r"FARTHING_TLS_CERT_FILE=.*No such file"):
        read_tls_files(settings)


@needs_openssl
@pytest.mark.parametrize("spoiled", ["cert", "key", "ca"])
def test_a_file_that_is_no_pem_is_named(
    spoiled: str, authority: Authority, tmp_path: Path
) -> None:
    good = authority.issue("server")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    files: dict[str, Any] = {
        "tls_cert_file": good.tls_cert_file,
        "tls_key_file": good.tls_key_file,
        "tls_ca_file": good.tls_ca_file,
        f"tls_{spoiled}_file": garbage,
    }
    with pytest.raises(SettingsError, match=f"^FARTHING_TLS_{spoiled.upper()}_FILE="):
        read_tls_files(ServiceSettings(**files))


@needs_openssl
def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    mixed = ServiceSettings(
        tls_cert_file=one.tls_cert_file,
        tls_key_file=other.tls_key_file,
        tls_ca_file=one.tls_ca_file,
    )
    with pytest.raises(SettingsError, match=r"FARTHING_TLS_KEY_FILE.*do not belong together"):
        read_tls_files(mixed)
