"""Models from an address: what breaks off goes on, what is wrong never becomes visible."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.file_server import FileServer

from farthing.inference.store import AddProgress, ModelStore
from farthing.inference.store.bandwidth import Rate, Throttle
from farthing.inference.store.http_open import WebOpener, parse_url, public_form
from farthing.inference.store.partial import open_part
from farthing.kit.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(store: ModelStore) -> list[str]:
    return [p.name for p in store.contents.incoming.glob("*")]


def test_a_model_comes_from_an_address_with_its_origin(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("My Model.gguf".replace(" ", "%20"), gguf_bytes)
    heard: list[AddProgress] = []
    stored = store.add(server.url("My%20Model.gguf?token=secret"), progress=heard.append)
    assert (stored.name, stored.path.name) == ("small", "my-model.gguf")
    assert stored.path.read_bytes() == gguf_bytes
    assert stored.source == server.url("My%20Model.gguf?…")
    assert "secret" not in json.dumps(store.contents.read_document(stored.digest))
    assert stored.provenance["sha256_was_given"] is False
    assert leftovers(store) == []
    assert [p.stage for p in heard][-1] == "done"
    assert max(p.done_bytes for p in heard if p.stage == "download") == len(gguf_bytes)


def test_cut_connections_are_gone_on_with_where_they_broke(
    server: FileServer, store: ModelStore, gguf_bytes: bytes, pauses: list[float]
) -> None:
    server.serve("m.gguf", gguf_bytes, cut_after_bytes=[700, 500, 300])
    stored = store.add(server.url("m.gguf"), "m")
    assert stored.path.read_bytes() == gguf_bytes
    assert server.offsets == [0, 700, 1200, 1500]
    assert server.sent_bytes == len(gguf_bytes)
    assert pauses == [0.5, 0.5, 0.5]  # there was progress each time


def test_pauses_grow_while_nothing_comes_and_end_with_what_went_wrong(
    server: FileServer, store: ModelStore, gguf_bytes: bytes, pauses: list[float]
) -> None:
    file = server.serve("m.gguf", gguf_bytes, statuses=[(503, {})] * 9)
    heard: list[AddProgress] = []
    with pytest.raises(Unavailable, match=r"HTTP 503.*goes on where it stopped"):
        store.add(server.url("m.gguf"), progress=heard.append)
    assert pauses == [0.5, 1.0, 2.0]
    assert next(p for p in heard if p.stage == "wait").detail.endswith("where it stopped")
    file.statuses = [(429, {"Retry-After": "7"})]
    store.add(server.url("m.gguf"))
    assert pauses[-1] == 7.0


def test_a_server_that_goes_quiet_is_left_and_asked_again(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, stall_after_bytes=[900])
    assert store.add(server.url("m.gguf"), "m").path.read_bytes() == gguf_bytes
    assert server.offsets == [0, 900]


def test_a_server_that_cannot_go_on_is_begun_anew(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, ranges=False, cut_after_bytes=[700, 900])
    assert store.add(server.url("m.gguf"), "m").path.read_bytes() == gguf_bytes
    assert server.offsets == [0, 700, 900]


def test_a_server_that_cannot_go_on_and_always_cuts_is_given_up(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, ranges=False, cut_after_bytes=[700] * 99)
    with pytest.raises(Unavailable, match="it ended after 700 of"):
        store.add(server.url("m.gguf"))
    assert len(server.requests) < 10


def test_the_next_call_goes_on_where_the_last_one_ended(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    file = server.serve("m.gguf", gguf_bytes, cut_after_bytes=[1000, 0, 0, 0, 0])
    with pytest.raises(Unavailable):
        store.add(server.url("m.gguf"))
    file.cut_after_bytes.clear()
    assert store.add(server.url("m.gguf"), "m").path.read_bytes() == gguf_bytes
    assert server.offsets[-1] == 1000
    assert server.requests[-1]["if-range"] == file.etag
    assert server.sent_bytes == len(gguf_bytes)


def test_a_file_that_changed_between_two_calls_is_fetched_whole(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", b"GGUF" + bytes(3000), cut_after_bytes=[1000, 0, 0, 0, 0])
    with pytest.raises(Unavailable):
        store.add(server.url("m.gguf"))
    server.serve("m.gguf", gguf_bytes)
    assert store.add(server.url("m.gguf"), "m").path.read_bytes() == gguf_bytes


def test_a_change_that_no_server_tells_of_is_found_by_the_hash(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    other = bytes(len(gguf_bytes))
    server.serve("m.gguf", other, etag=None, cut_after_bytes=[1000, 0, 0, 0, 0])
    with pytest.raises(Unavailable):
        store.add(server.url("m.gguf"), sha256=sha256(gguf_bytes))
    server.serve("m.gguf", gguf_bytes, etag=None)
    stored = store.add(server.url("m.gguf"), "m", sha256=sha256(gguf_bytes))
    assert stored.path.read_bytes() == gguf_bytes
    assert server.offsets[-2:] == [1000, 0]


def test_other_bytes_than_announced_never_become_visible(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes)
    with pytest.raises(InvalidArgument, match="not what was announced") as caught:
        store.add(server.url("m.gguf"), sha256="0" * 64)
    assert caught.value.reason == "MODEL_HASH_MISMATCH"
    assert store.list() == ()
    raw = hashlib.sha256(b"other").digest()
    server.serve("d.gguf", gguf_bytes, digest=f"sha-256=:{base64.b64encode(raw).decode()}:")
    with pytest.raises(InvalidArgument, match="not what was announced"):
        store.add(server.url("d.gguf"))
    with pytest.raises(InvalidArgument, match="no sha256"):
        store.add(server.url("m.gguf"), sha256="abc")


def test_a_hash_that_the_server_publishes_is_noted(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    raw = hashlib.sha256(gguf_bytes).digest()
    server.serve("m.gguf", gguf_bytes, digest=f"sha-256=:{base64.b64encode(raw).decode()}:")
    assert store.add(server.url("m.gguf")).provenance["sha256_was_published"] is True


def test_a_file_of_unknown_length_is_taken_in_pieces(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, chunked=True, bytes_per_write=500, cut_after_bytes=[900])
    assert store.add(server.url("m.gguf"), "m").path.read_bytes() == gguf_bytes
    assert server.offsets == [0, 900]


def test_refusals_say_what_to_do(server: FileServer, store: ModelStore) -> None:
    with pytest.raises(NotFound, match="check the address"):
        store.add(server.url("absent.gguf"))
    server.serve("m.gguf", b"x", statuses=[(403, {})])
    with pytest.raises(PermissionDenied, match="wants a permission"):
        store.add(server.url("m.gguf"))
    with pytest.raises(Unavailable, match="HTTP 418"):
        server.serve("m.gguf", b"x", statuses=[(418, {})])
        store.add(server.url("m.gguf"))


def test_nobody_at_the_address_is_said_after_a_few_tries(
    store: ModelStore, pauses: list[float]
) -> None:
    with pytest.raises(Unavailable, match="refused"):
        store.add("http://127.0.0.1:9/m.gguf")
    assert len(pauses) == 3


def test_a_page_in_place_of_a_model_is_refused(server: FileServer, store: ModelStore) -> None:
    server.serve("m.gguf", b"<html>log in first</html>")
    with pytest.raises(InvalidArgument):
        store.add(server.url("m.gguf"))
    assert (store.list(), leftovers(store)) == ((), [])


def test_more_than_the_disk_has_is_refused_before_it_is_fetched(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, announced_bytes=1 << 60)
    with pytest.raises(ResourceExhausted, match="free"):
        store.add(server.url("m.gguf"))


def test_a_taken_name_costs_no_second_download(
    server: FileServer, store: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    (tmp_path / "other.gguf").write_bytes(gguf_bytes[:-4] + bytes(4))
    store.add(tmp_path / "other.gguf", "m")
    server.serve("m.gguf", gguf_bytes)
    with pytest.raises(AlreadyExists):
        store.add(server.url("m.gguf"), "m")
    store.add(server.url("m.gguf"), "n")
    assert len(server.requests) == 1


def test_a_redirect_keeps_the_place_and_loses_secrets(
    server: FileServer, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes)
    there = server.address.replace("127.0.0.1", "localhost")
    server.serve("moved.gguf", b"", redirect=f"{there}/m.gguf")
    headers = {"Authorization": "Bearer x", "Range": "bytes=100-"}
    with WebOpener().open(server.url("moved.gguf"), headers, 5) as response:
        assert response.read() == gguf_bytes[100:]
    assert "authorization" in server.requests[0]
    assert "authorization" not in server.requests[1]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_a_redirect_to_something_else_is_refused(
    server: FileServer, store: ModelStore, target: str
) -> None:
    server.serve("moved.gguf", b"", redirect=target)
    with pytest.raises(InvalidArgument, match="leads to"):
        store.add(server.url("moved.gguf"))


@pytest.mark.parametrize(
    "url",
    ["http://", "http://x:y/", "https://a b/", "http://user:pw@host/m.gguf", "http://[::1"],
)
def test_addresses_that_are_none_are_refused(store: ModelStore, url: str) -> None:
    with pytest.raises(InvalidArgument, match="address"):
        store.add(url)
    assert parse_url("https://host:8443/a/b.gguf?x=1").port == 8443
    assert public_form("https://host/a?sig=secret#f") == "https://host/a?…"


def test_after_a_power_cut_only_what_was_synced_counts(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with open_part(path) as part:
        part.append(b"a" * 1000)
        part.sync()
        part.append(b"b" * 500)
    with open_part(path) as part:  # a killed process alone loses nothing
        assert part.size_bytes == 1500
    note = path.with_name("part.synced")
    note.write_text(json.dumps({"boot": "another", "size_bytes": 1000}))
    with open_part(path) as part:
        assert part.size_bytes == 1000
        assert part.sha256 == sha256(b"a" * 1000)
    note.write_text("{")
    with open_part(path) as part:
        assert part.size_bytes == 0


def test_a_part_that_nobody_remembers_is_not_trusted(
    server: FileServer, store: ModelStore, gguf_bytes: bytes
) -> None:
    file = server.serve("m.gguf", gguf_bytes, cut_after_bytes=[1000, 0, 0, 0, 0])
    with pytest.raises(Unavailable):
        store.add(server.url("m.gguf"))
    for state in store.contents.incoming.rglob("*.state"):
        state.write_text("")
    file.cut_after_bytes.clear()
    store.add(server.url("m.gguf"), "m")
    assert server.offsets[-1] == 0


@given(
    rate=st.integers(1, 10_000_000),
    chunks=st.lists(st.tuples(st.integers(1, 1_000_000), st.floats(0, 5)), max_size=30),
)
def test_no_window_of_time_carries_more_than_the_rate_and_one_burst(
    rate: int, chunks: list[tuple[int, float]]
) -> None:
    bucket, now_s, log = Rate(rate), 100.0, list[tuple[float, int]]()
    for count, idle_s in chunks:
        log.append((now_s, count))
        bucket, wait_s = bucket.pay(count, now_s)
        now_s += wait_s + idle_s
    for first, (start_s, _) in enumerate(log):
        for last in range(first + 1, len(log)):
            sent = sum(count for _, count in log[first:last])
            assert sent <= rate * (log[last][0] - start_s + 0.25) * 1.000001 + 1


def test_a_limit_is_kept_by_waiting_after_each_piece() -> None:
    now_s, waited = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now_s
        waited.append(seconds)
        now_s += seconds

    throttle = Throttle(1000, now_s=lambda: now_s, sleep=sleep)
    for _ in range(8):
        throttle.pay(500)
    assert now_s == pytest.approx(8 * 500 / 1000 - 0.25)
    assert Throttle().chunk_bytes == 1 << 20
    assert replace(Rate(0)).pay(10**9, 0.0)[1] == 0.0


def test_files_that_may_not_be_read_are_named(
    store: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(gguf_bytes)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionDenied, match="cannot be read"):
        store.add(path)
    shutil.rmtree(tmp_path, ignore_errors=True)
