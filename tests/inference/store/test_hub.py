"""Fetching from a model hub, against a local server with the hub's layout and endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_hub import FakeHub, HubRepository
from tests.support.plain_gguf import write_gguf
from tests.support.tiny_onnx import save_model

from farthing.inference.store import AddProgress, Hub, ModelStore, Retrying, RetryRules
from farthing.inference.store.hub_files import HubFile, HubId, choose_files, parse_hub_id
from farthing.kit.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeHub() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, hub: FakeHub) -> ModelStore:
    retrying = Retrying(RetryRules(attempt_count=3), sleep=lambda _: None)
    return ModelStore(tmp_path / "models", hub=Hub(hub.endpoint), retrying=retrying)


@pytest.fixture
def gguf_bytes(tmp_path: Path) -> bytes:
    return write_gguf(tmp_path / "made.gguf").read_bytes()


def test_a_hub_id_has_repository_revision_and_selector() -> None:
    assert parse_hub_id("owner/small-GGUF@main:Q4_K_M") == HubId(
        "owner/small-GGUF", "main", "Q4_K_M"
    )
    assert parse_hub_id("owner/small") == HubId("owner/small")
    assert parse_hub_id("/owner/small") is None
    assert parse_hub_id("../owner/small") is None


def test_the_quantization_chooses_among_files() -> None:
    names = ("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf")
    listing = [HubFile(name, 1, "") for name in names]
    assert choose_files(HubId("o/m", "", "q4_k_m"), listing)[0].path == "m-Q4_K_M.gguf"
    assert choose_files(HubId("o/m", "", "m-Q8_0.gguf"), listing)[0].path == "m-Q8_0.gguf"
    with pytest.raises(InvalidArgument, match=r"3 files match.*m-Q4_K_S"):
        choose_files(HubId("o/m"), listing)
    with pytest.raises(InvalidArgument, match="no file matches"):
        choose_files(HubId("o/m", "", "Q2_K"), listing)


def test_an_onnx_repository_gives_the_graph_its_weights_and_configuration() -> None:
    names = (
        "README.md",
        "config.json",
        "tokenizer.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_fp16.onnx",
        "onnx/model_fp16.onnx_data",
    )
    listing = [HubFile(name, 1, "") for name in names]
    plain = [f.path for f in choose_files(HubId("o/m"), listing)]
    assert plain == ["onnx/model.onnx", "config.json", "tokenizer.json", "onnx/model.onnx_data"]
    half = [f.path for f in choose_files(HubId("o/m", "", "fp16"), listing)]
    assert half[0] == "onnx/model_fp16.onnx" and half[-1] == "onnx/model_fp16.onnx_data"


def test_split_files_and_repositories_without_models_are_refused() -> None:
    split = [HubFile("m-Q8_0-00001-of-00002.gguf", 1, "")]
    with pytest.raises(Unimplemented, match="one part of several"):
        choose_files(HubId("o/m"), split)
    with pytest.raises(Unimplemented, match="no GGUF or ONNX"):
        choose_files(HubId("o/m"), [HubFile("model.safetensors", 1, "")])


def test_a_gguf_model_comes_from_the_hub_with_its_commit(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes
) -> None:
    hub.repositories["owner/small-gguf"] = HubRepository({"small-Q8_0.gguf": gguf_bytes})
    heard: list[AddProgress] = []
    stored = store.add("owner/small-gguf:Q8_0", "small", progress=heard.append)
    assert stored.path.read_bytes() == gguf_bytes
    assert stored.source == "hub:owner/small-gguf:Q8_0"
    downloaded = [p.done_bytes for p in heard if p.stage == "download"]
    assert downloaded and downloaded[-1] == len(gguf_bytes)
    assert store.add("owner/small-gguf:Q8_0", "small") == stored


def test_an_onnx_model_comes_from_the_hub(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    save_model(folder, graph_path="onnx/model.onnx")
    files = {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }
    hub.repositories["owner/tiny-onnx"] = HubRepository(files)
    stored = store.add("owner/tiny-onnx")
    assert (stored.name, stored.format) == ("owner-tiny-onnx", "onnx")
    assert (stored.path / "onnx/model.onnx").read_bytes() == files["onnx/model.onnx"]


def test_content_other_than_published_is_refused(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes
) -> None:
    tampered = gguf_bytes[:-1] + bytes([gguf_bytes[-1] ^ 1])
    hub.repositories["owner/small"] = HubRepository(
        {"small.gguf": gguf_bytes}, served={"small.gguf": tampered}
    )
    with pytest.raises(InvalidArgument, match="not what was announced"):
        store.add("owner/small")
    assert store.list() == ()


def test_unknown_repositories_and_revisions_are_named(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes
) -> None:
    hub.repositories["owner/small"] = HubRepository({"small.gguf": gguf_bytes})
    with pytest.raises(NotFound, match="no model owner/absent"):
        store.add("owner/absent")
    with pytest.raises(NotFound, match="no revision 'v9'"):
        store.add("owner/small@v9")


def test_a_gated_repository_says_where_to_accept_its_licence(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.repositories["owner/gated"] = HubRepository({}, gated=True)
    with pytest.raises(PermissionDenied, match="accept it on the hub"):
        store.add("owner/gated")


def test_a_broken_download_is_resumed_by_the_next_try(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes
) -> None:
    repository = HubRepository({"big.gguf": gguf_bytes}, break_at_byte=1000)
    hub.repositories["owner/big"] = repository
    with pytest.raises(Unavailable, match=r"1000 of \d+ bytes.*goes on where it stopped"):
        store.add("owner/big")
    repository.break_at_byte = None
    stored = store.add("owner/big")
    assert stored.path.read_bytes() == gguf_bytes
    assert hub.range_starts[-1] == 1000


def test_what_the_store_has_already_is_not_fetched_again(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    (tmp_path / "local.gguf").write_bytes(gguf_bytes)
    store.add(tmp_path / "local.gguf", "local")
    hub.repositories["owner/same"] = HubRepository({"same.gguf": gguf_bytes}, break_at_byte=0)
    assert store.add("owner/same", "same").digest == store.resolve("local").digest


def test_a_file_name_that_leads_elsewhere_is_refused(
    hub: FakeHub, store: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    hub.repositories["owner/evil"] = HubRepository({"../../../evil.gguf": gguf_bytes})
    with pytest.raises(InvalidArgument, match="leads elsewhere"):
        store.add("owner/evil")
    assert not list(tmp_path.rglob("evil.gguf"))
