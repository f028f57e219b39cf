"""Documents reach their readers, bad versions do not, whichever the source."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.discovery.consul_documents import ROOT, ConsulDocuments
from farthing.kit.discovery.documents import Document, DocumentSource
from farthing.kit.discovery.file_documents import FileDocuments
from farthing.kit.errors import Aborted, FailedPrecondition, InvalidArgument

Until = Callable[..., Awaitable[None]]


class Place(Protocol):
    """A source and the means to write to where it reads."""

    source: DocumentSource

    async def write(self, key: str, text: str) -> None: ...
    async def delete(self, key: str) -> None: ...
    async def close(self) -> None: ...


class Folder:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source: DocumentSource = FileDocuments(directory)

    async def write(self, key: str, text: str) -> None:
        path = self.directory / f"{key}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    async def delete(self, key: str) -> None:
        (self.directory / f"{key}.json").unlink()

    async def close(self) -> None:
        await self.source.close()


class KeyValues:
    def __init__(self, url: str) -> None:
        self.client = ConsulClient(url)
        self.source: DocumentSource = ConsulDocuments(ConsulClient(url))

    async def write(self, key: str, text: str) -> None:
        await self.client.put(f"/v1/kv/{ROOT}{key}", text.encode())

    async def delete(self, key: str) -> None:
        status, _, _ = await self.client._send("DELETE", f"/v1/kv/{ROOT}{key}", None, None, 5)
        assert status == 200

    async def close(self) -> None:
        await self.source.close()
        await self.client._send("DELETE", f"/v1/kv/{ROOT}", {"recurse": ""}, None, 5)
        await self.client.close()


@pytest.fixture(params=["files", pytest.param("consul", marks=pytest.mark.consul)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made: Place = (
        Folder(tmp_path)
        if request.param == "files"
        else KeyValues(request.getfixturevalue("shared_consul").url)
    )
    yield made
    await made.close()


def price_must_be_positive(document: Document) -> None:
    if document.content["price"] <= 0:
        raise InvalidArgument("price must be positive", field="price")


async def test_a_document_written_before_is_found(place: Place) -> None:
    await place.write("prices/current", '{"price": 1}')
    document = await place.source.get("prices/current")
    assert document is not None
    assert document.content == {"price": 1}


async def test_an_unknown_document_is_none(place: Place) -> None:
    assert await place.source.get("prices/none") is None


async def test_subscribers_get_what_is_there_and_every_new_version(
    place: Place, until: Until
) -> None:
    await place.write("prices/current", '{"price": 1}')
    await place.write("policies/cheap", "{}")
    seen: list[Any] = []
    place.source.subscribe("prices/", lambda document: seen.append(document.content))
    await until(lambda: seen == [{"price": 1}])
    await place.write("prices/current", '{"price": 22}')
    await until(lambda: seen == [{"price": 1}, {"price": 22}])


async def test_a_refused_version_leaves_the_last_good_one_and_says_why(
    place: Place, until: Until
) -> None:
    seen: list[Any] = []
    place.source.subscribe(
        "prices/", lambda item: seen.append(item.content), validate=price_must_be_positive
    )
    await place.write("prices/current", '{"price": 1}')
    await until(lambda: seen == [{"price": 1}])
    await place.write("prices/current", '{"price": -33}')
    await until(lambda: "prices/current" in place.source.rejected)
    assert "price must be positive" in place.source.rejected["prices/current"]
    document = await place.source.get("prices/current")
    assert document is not None
    assert document.content == {"price": 1}
    await place.write("prices/current", '{"price": 444}')
    await until(lambda: seen == [{"price": 1}, {"price": 444}])
    assert "prices/current" not in place.source.rejected


async def test_what_is_not_json_is_refused(place: Place, until: Until) -> None:
    place.source.subscribe("prices/", lambda document: None)
    await place.write("prices/current", "{")
    await until(lambda: "not JSON" in place.source.rejected.get("prices/current", ""))


async def test_a_deleted_document_stays_and_null_retires_it(place: Place, until: Until) -> None:
    seen: list[Any] = []
    place.source.subscribe("", lambda document: seen.append((document.key, document.content)))
    await place.write("policies/cheap", "{}")
    await until(lambda: len(seen) == 1)
    await place.delete("policies/cheap")
    await place.write("policies/other", "[1]")
    await until(lambda: len(seen) == 2)
    assert await place.source.get("policies/cheap") is not None
    await place.write("policies/cheap", "null")
    await until(lambda: seen[-1] == ("policies/cheap", None))
    assert await place.source.get("policies/cheap") is None


async def test_a_missing_directory_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="FARTHING_DOCUMENTS_DIR"):
        FileDocuments(tmp_path / "none")


@pytest.mark.consul
async def test_only_one_of_two_writers_of_a_version_wins(shared_consul: Any) -> None:
    documents = ConsulDocuments(ConsulClient(shared_consul.url))
    await documents.put("race/one", {"n": 1}, expected_version="0")
    with pytest.raises(Aborted, match="read it again"):
        await documents.put("race/one", {"n": 2}, expected_version="0")
    document = await documents.get("race/one")
    assert document is not None
    await documents.put("race/one", {"n": 3}, expected_version=document.version)
    await documents.close()


@pytest.mark.consul
async def test_a_restarted_process_has_its_documents_while_consul_is_away(
    own_consul: Any, tmp_path: Path, until: Until
) -> None:
    state_file = tmp_path / "documents.json"
    first = ConsulDocuments(ConsulClient(own_consul.url), state_file=state_file)
    first.subscribe("", lambda document: None)
    await first.put("prices/current", {"price": 7})
    await until(lambda: state_file.exists())
    assert json.loads(state_file.read_text())["prices/current"]["content"] == {"price": 7}
    await first.close()
    own_consul.kill()
    second = ConsulDocuments(ConsulClient(own_consul.url), state_file=state_file)
    document = await second.get("prices/current")
    assert document is not None
    assert document.content == {"price": 7}
    await second.close()


@pytest.mark.consul
async def test_documents_of_a_cluster_set_up_anew_replace_remembered_ones(
    own_consul: Any, tmp_path: Path, until: Until
) -> None:
    state_file = tmp_path / "documents.json"
    state_file.write_text(
        '{"prices/current": {"version": "12.aaaaaaaaaaaa", "content": {"price": 7}}}'
    )
    documents = ConsulDocuments(ConsulClient(own_consul.url), state_file=state_file)
    seen: list[Any] = []
    documents.subscribe("prices/", lambda document: seen.append(document.content))
    assert seen == [{"price": 7}]
    await documents.put("prices/current", {"price": 8})
    await until(lambda: seen[-1] == {"price": 8})
    await documents.close()
