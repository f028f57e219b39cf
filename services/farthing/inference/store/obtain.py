"""Gets a model from where it is, a disk, an address or a hub, into files that can be published."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from farthing.inference.store.archives import is_archive, unpack
from farthing.inference.store.artefact import Artefact, find_artefact
from farthing.inference.store.contents import Contents, slug
from farthing.inference.store.files import (
    AddProgress,
    ProgressCallback,
    report_disk_errors,
    unreadable,
)
from farthing.inference.store.http_fetch import Download, Downloaded, HttpFetcher
from farthing.inference.store.http_open import is_url, parse_url, public_form
from farthing.inference.store.hub import Hub
from farthing.inference.store.hub_files import HubId, parse_hub_id
from farthing.inference.store.node_fetch import NodeSources
from farthing.inference.store.nodes import parse_node_source
from farthing.inference.store.publish import Origin
from farthing.inference.store.sharing import link_stored, take_over
from farthing.inference.store.workplaces import private_folder, shared_folder, used_up
from farthing.kit.errors import InvalidArgument

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_GGUF = b"GGUF"


class Sources:
    """Every kind of source. `make_fetcher` gives a fetcher for one of them."""

    def __init__(
        self,
        contents: Contents,
        hub: Hub,
        make_fetcher: Callable[[], HttpFetcher],
        nodes: NodeSources,
    ) -> None:
        self._contents, self._hub, self._make_fetcher = contents, hub, make_fetcher
        self._nodes = nodes

    @contextmanager
    def obtain(
        self, source: str | Path, sha256: str, report: ProgressCallback, *, local: bool = True
    ) -> Iterator[Origin]:
        """The model of a source, on disk while the block runs; paths of this machine only with `local`.

        A download that breaks off stays for the next try; one that was delivered is gone after the block.
        """
        text = str(source)
        path = Path(source).expanduser()
        if sha256 and not _SHA256.fullmatch(sha256):
            raise InvalidArgument(
                f"{sha256!r} is no sha256; give its 64 hexadecimal digits", field="sha256"
            )
        if is_url(text):
            with self._from_url(text, sha256.lower(), report) as origin:
                yield origin
            return
        if (there := parse_node_source(text)) is not None:
            node, name = there
            with self._nodes.obtain(name, [node], report) as origin:
                yield origin
            return
        hub_id = parse_hub_id(text)
        if hub_id is not None and not (local and path.exists()):
            with self._from_hub(hub_id, report) as origin:
                yield origin
            return
        if not local:
            raise InvalidArgument(
                "source is none that a node fetches; write an http(s) address, a hub id (owner/repository), or "
                "node://host:port/name",
                field="source",
            )
        try:
            packed = path.is_file() and path.suffix.lower() != ".gguf" and is_archive(path)
        except OSError as error:
            raise unreadable(path, error) from None
        if packed:
            with self._from_archive(path, report) as origin:
                yield origin
            return
        yield _describe(find_artefact(path), str(path.absolute()))

    @contextmanager
    def _from_url(self, url: str, sha256: str, report: ProgressCallback) -> Iterator[Origin]:
        # A signed address changes with every try; the hash, where it is known, does not.
        key = _key_of(sha256 or url)
        label = PurePosixPath(unquote(parse_url(url).path)).name or "model"
        with shared_folder(self._contents, key) as folder:
            part = folder / "part"
            done = self._fetch(Download(url, part, label, sha256), report)
            stem = slug(label.partition(".")[0])
            with used_up(folder), report_disk_errors(folder):
                model, hashes = folder / "model", dict[str, str]()
                if is_archive(part):
                    main = _unpack(part, model, report)
                else:
                    main = model / f"{stem}{_suffix_of(part)}"
                    take_over(part, main)
                    hashes = {main.name: done.sha256}
                yield Origin(
                    source=public_form(url),
                    artefact=find_artefact(main),
                    owned=True,
                    hashes=hashes,
                    provenance={
                        "fetched_sha256": done.sha256,
                        "sha256_was_given": bool(sha256),
                        "sha256_was_published": done.proven and not sha256,
                    },
                    title=stem,
                )

    @contextmanager
    def _from_hub(self, hub_id: HubId, report: ProgressCallback) -> Iterator[Origin]:
        with shared_folder(self._contents, _key_of(f"hub:{hub_id}")) as folder:
            fetched = self._hub.fetch(hub_id, folder, self._fetch, report)
            with used_up(folder):
                artefact = find_artefact(fetched.main)
                plain = artefact.main.stem if artefact.format == "gguf" else str(hub_id)
                yield Origin(
                    source=f"hub:{hub_id}",
                    artefact=artefact,
                    revision=fetched.revision,
                    owned=True,
                    hashes=fetched.hashes,
                    provenance={"licence": fetched.licence} if fetched.licence else {},
                    title=plain,
                )

    def _fetch(self, download: Download, report: ProgressCallback) -> Downloaded:
        """Fetches a file unless the store has one of its content."""
        if download.sha256 and link_stored(
            self._contents, download.sha256, download.size_bytes, download.path
        ):
            return Downloaded(download.sha256, download.path.stat().st_size, True)
        return self._make_fetcher().fetch(download, report)

    @contextmanager
    def _from_archive(self, archive: Path, report: ProgressCallback) -> Iterator[Origin]:
        with private_folder(self._contents, "unpack") as folder:
            main = _unpack(archive, folder / "model", report)
            title = slug(archive.name.partition(".")[0])
            yield Origin(str(archive.absolute()), find_artefact(main), owned=True, title=title)


def describe_made(path: Path, source: str, provenance: Mapping[str, object]) -> Origin:
    """A model that was made in the store's own folder."""
    artefact = find_artefact(path)
    return Origin(source, artefact, owned=True, card={}, provenance=provenance)


def _key_of(identity: str) -> str:
    return f"fetch-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"


def _describe(artefact: Artefact, source: str) -> Origin:
    plain = artefact.main.stem if artefact.format == "gguf" else artefact.folder.name
    return Origin(source, artefact, title=plain)


def _unpack(archive: Path, target: Path, report: ProgressCallback) -> Path:
    """Unpacks an archive; the folder in it that holds the model."""
    done_bytes = 0

    def on_bytes(count: int) -> None:
        nonlocal done_bytes
        done_bytes += count
        report(AddProgress("unpack", archive.name, done_bytes, 0))

    shutil.rmtree(target, ignore_errors=True)  # left by a killed process
    unpack(archive, target, on_bytes)
    inner = target
    while len(entries := list(inner.iterdir())) == 1 and entries[0].is_dir():
        inner = entries[0]
    return inner


def _suffix_of(path: Path) -> str:
    with path.open("rb") as file:
        return ".gguf" if file.read(len(_GGUF)) == _GGUF else ".bin"
