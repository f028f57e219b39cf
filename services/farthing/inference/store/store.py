"""The model store: artefacts under their hash, names that point to them, nothing half-written in between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.inference.store.artefact import CARD_NAME, find_artefact, read_card
from farthing.inference.store.bandwidth import Throttle
from farthing.inference.store.contents import (
    Contents,
    Entry,
    StoredModel,
    damaged_model,
    is_digest,
    is_name,
    require_name,
    slug,
)
from farthing.inference.store.files import (
    ProgressCallback,
    combine_digest,
    ignore_progress,
    write_json,
)
from farthing.inference.store.holds import Hold
from farthing.inference.store.http_fetch import HttpFetcher
from farthing.inference.store.hub import Hub
from farthing.inference.store.node_fetch import NodeSources
from farthing.inference.store.nodes import Node, parse_node_source
from farthing.inference.store.obtain import Sources
from farthing.inference.store.publish import MakeRoom, Origin, Publisher
from farthing.inference.store.retrying import Retrying
from farthing.inference.store.upkeep import Freed, GcWishes, Upkeep
from farthing.inference.store.verify import Verdict, verify_models
from farthing.kit.clock import Clock, SystemClock
from farthing.kit.errors import ResourceExhausted
from farthing.kit.rpc.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a store may take: bytes on disk and bytes a second from elsewhere. 0 is no limit."""

    disk_bytes: int = 0
    fetch_bytes_per_s: int = 0


class ModelStore:
    """A store under `root` (made when missing). Safe for several processes at once. Blocking: services use a thread."""

    def __init__(
        self,
        root: Path,
        *,
        hub: Hub | None = None,
        clock: Clock | None = None,
        limits: StoreLimits | None = None,
        retrying: Retrying | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.contents = Contents(root.expanduser())
        self.limits = limits or StoreLimits()
        self._clock = clock or SystemClock()
        self._retrying = retrying or Retrying()
        self._publisher = Publisher(self.contents, self._clock)
        self._upkeep = Upkeep(self.contents)
        self._nodes = NodeSources(self.contents, self._retrying, self._make_throttle, tls)
        self._sources = Sources(self.contents, hub or Hub(), self._make_fetcher, self._nodes)

    def add(
        self,
        source: str | Path,
        name: str | None = None,
        *,
        replace: bool = False,
        sha256: str = "",
        evict: bool = False,
        local: bool = True,
        progress: ProgressCallback | None = None,
    ) -> StoredModel:
        """Adds a GGUF file, an ONNX folder or an archive of either, from disk, an http(s) address, a hub or a node.

        A hub model is `owner/repository[@revision][:file]`, a node's `node://host:port/name`, which keeps its name
        there unless it gets another; without `local` no path of this machine is taken. `sha256` is what a file from an
        address must have.
        Adding the same model again changes nothing. A name that stands for another model is AlreadyExists
        unless `replace`. Corrupt, truncated or unsupported files raise InvalidArgument or Unimplemented. A download
        that broke off goes on with the next call. Beyond the store's limit it is ResourceExhausted, unless `evict`
        lets the least recently used models go.
        """
        report = progress or ignore_progress
        if name is None and (there := parse_node_source(str(source))) is not None:
            _, name = there
        if name is not None:
            require_name(name)
        with self._sources.obtain(source, sha256, report, local=local) as origin:
            return self.publish(origin, name, replace=replace, evict=evict, progress=report)

    def fetch(
        self,
        name: str,
        nodes: Sequence[Node],
        *,
        new_name: str = "",
        replace: bool = False,
        evict: bool = False,
        progress: ProgressCallback = ignore_progress,
    ) -> StoredModel:
        """Fetches a model from other nodes, in the order given; goes on at the next one when one fails.

        NotFound when none has it, Unavailable when some do not answer; otherwise as `add`.
        """
        require_name(name)
        require_name(new_name or name)
        with self._nodes.obtain(name, nodes, progress) as origin:
            return self.publish(
                origin, new_name or name, replace=replace, evict=evict, progress=progress
            )

    def publish(
        self,
        origin: Origin,
        name: str | None,
        *,
        replace: bool = False,
        evict: bool = False,
        progress: ProgressCallback = ignore_progress,
    ) -> StoredModel:
        """Stores a model that is on disk; errors as `add`."""
        return self._publisher.publish(
            origin, name, replace=replace, make_room=self._room(evict), report=progress
        )

    def list(self) -> tuple[StoredModel, ...]:
        """Every model that is whole, in order of name."""
        return tuple(entry.model for entry in self.survey() if entry.model is not None)

    def survey(self) -> tuple[Entry, ...]:
        """Every name, damaged ones included, in order."""
        return tuple(self.contents.survey())

    def resolve(self, name: str) -> StoredModel:
        """The model of a name. NotFound lists the names there are; FailedPrecondition when a file is damaged."""
        return self.contents.open(name, self.contents.digest_of(name))

    def find(self, digest: str) -> StoredModel | None:
        """The model of a digest under the first of its names, None when it is not here or not whole."""
        if not is_digest(digest):
            return None
        names = [n for n, d in self.contents.pointers().items() if d == digest]
        found = [e.model for e in self.survey() if e.model is not None and e.name in names[:1]]
        return found[0] if found else None

    def locate(self, reference: str | Path) -> StoredModel:
        """The model of a path, hashed and checked now, or of a name in the store. Errors as `add` and `take`."""
        path = Path(reference).expanduser()
        if not path.exists():
            if len(path.parts) > 1 or path.suffix in (".gguf", ".onnx"):
                find_artefact(path)
            return self.take(str(reference))
        artefact = find_artefact(path)
        records = artefact.records()
        card = read_card(artefact)
        plain = artefact.main.stem if artefact.format == "gguf" else artefact.folder.name
        return StoredModel(
            name=str(card.get("name") or slug(plain)),
            digest=combine_digest(records),
            format=artefact.format,
            path=artefact.main,
            size_bytes=sum(record.size_bytes for record in records),
            facts=None,
            card=card,
            source=str(artefact.main),
        )

    def take(self, name: str) -> StoredModel:
        """A stored model for one that will serve it: its files read and compared, and it counts as used now.

        NotFound; FailedPrecondition when a file is not what was stored.
        """
        stored = self.resolve(name)
        (verdict,) = self.verify([name])
        if verdict.damage:
            raise damaged_model(name, stored.digest, ", ".join(verdict.damage))
        self.record_use(stored)
        return stored

    def has(self, name: str) -> bool:
        """Whether the name stands for a model here, be it damaged."""
        return is_name(name) and self.contents.pointer(name).exists()

    def record_use(self, model: StoredModel) -> None:
        """Notes that a stored model is used now, so that others leave before it does."""
        now_s = self._clock.now().timestamp()
        with contextlib.suppress(
            OSError
        ):  # a store that cannot be written loses nothing either
            os.utime(self.contents.pointer(model.name), (now_s, now_s))

    def hold(self, model: StoredModel) -> Hold:
        """Keeps a stored model from being removed, until it is released or this process ends.

        A model from a path is nobody's to remove: holding it does nothing.
        """
        return Hold(self.contents, model.digest)

    def verify(
        self, names: Collection[str] = (), progress: ProgressCallback = ignore_progress
    ) -> tuple[Verdict, ...]:
        """Reads every file of the named models again, of all when none is named, and compares hashes."""
        return tuple(verify_models(self.contents, names, progress))

    def remove(self, name: str, *, force: bool = False) -> Freed:
        """Removes a name, and the model's files when no other name needs them; see Upkeep.remove."""
        return self._upkeep.remove(name, force=force)

    def collect(self, wishes: GcWishes) -> Freed:
        """Frees what nobody needs; see GcWishes."""
        return self._upkeep.collect(wishes, self._clock.now().timestamp())

    def used_bytes(self) -> int:
        """What all stored models take on disk, shared files once."""
        return self._upkeep.used_bytes()

    def record_measurement(self, name: str, measured: Mapping[str, Any]) -> StoredModel:
        """Writes what was measured of a model into its card; `task_quality` in it replaces the card's own."""
        with self.contents.lock():
            digest = self.contents.digest_of(name)
            document = self.contents.read_document(digest)
            document["measured"] = dict(measured)
            write_json(self.contents.folder(digest) / CARD_NAME, document)
        return self.resolve(name)

    def _make_throttle(self) -> Throttle:
        return Throttle(self.limits.fetch_bytes_per_s)

    def _make_fetcher(self) -> HttpFetcher:
        return HttpFetcher(self._make_throttle(), self._retrying)

    def _room(self, evict: bool) -> MakeRoom:
        def make_room(more_bytes: int) -> None:
            limit = self.limits.disk_bytes
            if not limit:
                return
            if evict:
                self._upkeep.evict(limit - more_bytes)
            used = self.used_bytes()
            if used + more_bytes > limit:
                raise ResourceExhausted(
                    f"the store may take {limit} bytes, holds {used} and would get {more_bytes} more; remove models, "
                    "add --make-room, or raise FARTHING_MODEL_STORE_LIMIT_BYTES",
                    reason="STORE_LIMIT",
                    metadata={"limit_bytes": str(limit), "used_bytes": str(used)},
                )

        return make_room


def add_model(
    root: Path,
    source: str | Path,
    name: str | None = None,
    *,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> StoredModel:
    """Adds a model to the store under `root`; see `ModelStore.add`."""
    return ModelStore(root).add(source, name, replace=replace, progress=progress)
